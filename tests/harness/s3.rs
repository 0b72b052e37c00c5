//! A real S3 server, on a folder.

use std::net::SocketAddr;
use std::path::Path;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// An S3 server with one bucket, as long as the test runs.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    folder: TempDir,
}

impl S3Server {
    /// The access key that it takes.
    pub const KEY_ID: &str = "test-key";
    /// The secret that belongs to the access key.
    pub const SECRET: &str = "hunter22-secret";
    /// Name of its bucket.
    pub const BUCKET: &str = "results";

    /// Starts one on a free port.
    ///
    /// # Panics
    /// When it cannot start.
    pub async fn start() -> Self {
        Self::try_start().await.unwrap_or_else(|error| panic!("no S3 server: {error}"))
    }

    async fn try_start() -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        std::fs::create_dir(folder.path().join(Self::BUCKET))?;
        let files = FileSystem::new(folder.path()).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(Self::KEY_ID, Self::SECRET));
        let service = service.build();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { address, folder })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where the files of the bucket are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
