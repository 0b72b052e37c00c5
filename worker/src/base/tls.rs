//! TLS of every HTTP client of the worker.
//!
//! Reading the certificates of the system takes longer than anything else at the start of a worker. They are read once for all clients,
//! and only when one of them first sees the certificate of a server: a worker whose queue is reached by plain HTTP never reads them.

use std::sync::{Arc, OnceLock};

use reqwest::ClientBuilder;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_platform_verifier::Verifier;

/// The verifier with the certificates of the system, or why there is none.
static SYSTEM: OnceLock<Result<Verifier, Error>> = OnceLock::new();

/// A builder of clients that share the certificates of the system.
///
/// # Errors
/// When the TLS library has no protocol version in common with its cryptography: never in practice.
pub fn client_builder() -> Result<ClientBuilder, Error> {
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let verifier = Arc::new(SystemVerifier(provider()));
    let mut config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(reqwest::Client::builder().tls_backend_preconfigured(config))
}

/// Reads the certificates of the system, unless they have been read. Blocks for some hundredths of a second.
///
/// # Errors
/// When the system has none.
pub fn load_certificates() -> Result<(), Error> {
    system().map(drop)
}

fn system() -> Result<&'static Verifier, Error> {
    SYSTEM.get_or_init(|| Verifier::new(provider())).as_ref().map_err(Clone::clone)
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}

/// Verifies as the system's verifier does, which is made when the first certificate comes.
#[derive(Debug)]
struct SystemVerifier(Arc<CryptoProvider>);

impl ServerCertVerifier for SystemVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        system()?.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
