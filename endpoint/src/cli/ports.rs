//! The ports of the local workers' own HTTP servers: one after the other, from the first one on.

use std::net::{Ipv4Addr, TcpListener};

use crate::fleet::FleetError;

/// The first of `count` free ports in a row: `wanted`, or a later one if somebody uses those and the operator did not choose them.
/// A port of 0 lets the system choose.
pub(crate) fn first_port(wanted: u16, count: u16, is_chosen: bool) -> Result<u16, FleetError> {
    if wanted == 0 || count == 0 {
        return Ok(wanted);
    }
    let mut first = wanted;
    loop {
        let last = first.checked_add(count - 1).ok_or(FleetError::PortTaken(wanted))?;
        let Some(taken) = (first..=last).find(|port| !is_free(*port)) else { break };
        if is_chosen {
            return Err(FleetError::PortTaken(taken));
        }
        first = taken.checked_add(1).ok_or(FleetError::PortTaken(wanted))?;
    }
    if first != wanted {
        tracing::info!(
            "Ports from {wanted} on are in use. The workers' own servers use {first} and up (--worker-http-port)."
        );
    }
    Ok(first)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_use_are_passed_over_unless_they_were_chosen() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = held.local_addr().unwrap().port();
        let error = first_port(port, 1, true).unwrap_err().to_string();
        assert!(error.contains("--worker-http-port") && error.contains(&port.to_string()), "{error}");
        if port < u16::MAX - 100 {
            assert!(first_port(port, 2, false).unwrap() > port);
            assert!(first_port(port - 1, 2, false).unwrap() != port - 1, "the second of two is in use");
        }
        assert_eq!((first_port(0, 9, true).unwrap(), first_port(port, 0, true).unwrap()), (0, port));
    }
}
