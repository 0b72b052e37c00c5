//! The ports of the container that the platform has made reachable.

use std::net::IpAddr;

use super::environment::Environment;
use super::settings::Settings;
use crate::sensors::Port;

/// The ports that RunPod has mapped: `RUNPOD_TCP_PORT_<number inside>` holds the number outside. Numbers above 65535 ask for
/// a port that has the same number on both sides.
pub(super) fn ports<E: Environment>(settings: &mut Settings<'_, E>) -> Vec<Port> {
    const PREFIX: &str = "RUNPOD_TCP_PORT_";
    const ADDRESS: &str = "RUNPOD_PUBLIC_IP";
    let given = settings.env.get(ADDRESS);
    let ip: Option<IpAddr> = given.as_deref().and_then(|ip| ip.parse().ok());
    if given.is_some() && ip.is_none() {
        settings.warnings.push(format!("{ADDRESS} is not an IP address: /health does not show it"));
    }
    let mut ports = Vec::new();
    for name in settings.env.names() {
        let Some(inside) = name.strip_prefix(PREFIX) else { continue };
        let outside = settings.env.get(&name).and_then(|port| port.parse::<u16>().ok());
        match (inside.parse::<u32>(), outside) {
            (Ok(inside), Some(public)) => {
                ports.push(Port { ip, private: u16::try_from(inside).unwrap_or(public), public, kind: "tcp" });
            }
            _ => settings.warnings.push(format!("{name} does not name a port: /health does not show it")),
        }
    }
    ports.sort_by_key(|port| port.private);
    ports
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn mapped_ports_are_read_and_others_are_warned_about() {
        let good = env(&[
            ("RUNPOD_TCP_PORT_22", "10341"),
            ("RUNPOD_TCP_PORT_70000", "18541"),
            ("RUNPOD_TCP_PORT_x", "1"),
            ("RUNPOD_TCP_PORT_80", "http"),
            ("RUNPOD_PUBLIC_IP", "203.0.113.7"),
        ]);
        let mut settings = Settings::new(&good);
        let found: Vec<(u16, u16)> = ports(&mut settings).iter().map(|port| (port.private, port.public)).collect();
        assert_eq!(found, [(22, 10341), (18541, 18541)]);
        assert_eq!(settings.warnings.len(), 2);

        let bad = env(&[("RUNPOD_TCP_PORT_22", "10341"), ("RUNPOD_PUBLIC_IP", "somewhere")]);
        let mut settings = Settings::new(&bad);
        assert_eq!(ports(&mut settings)[0].ip, None);
        assert_eq!(settings.warnings.len(), 1);
    }
}
