//! The ports of the local workers' own HTTP servers: one after the other, from the first one on.

use std::net::{Ipv4Addr, TcpListener};

use super::error::FleetError;

/// Where workers serve.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HttpPorts {
    /// The port of the first worker; 0 lets the system choose.
    first: u16,
    /// The operator did: no other one may be used.
    is_chosen: bool,
}

impl HttpPorts {
    /// The first of `count` free ports in a row: `wanted`, or a later one if somebody uses those and the operator did not choose them.
    pub(crate) fn find(wanted: u16, count: u16, is_chosen: bool) -> Result<Self, FleetError> {
        if wanted == 0 || count == 0 {
            return Ok(Self { first: wanted, is_chosen });
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
        Ok(Self { first, is_chosen })
    }

    /// Those of the workers that come after so many others.
    pub(crate) fn after(self, workers: u16) -> Self {
        let first = if self.first == 0 { 0 } else { self.first.saturating_add(workers) };
        Self { first, ..self }
    }

    /// The port of the next process of a worker; `None` lets the system choose. Another program may have taken the worker's own one since
    /// it was found free: then the next free one.
    pub(crate) fn next_of(self, worker: u16) -> Option<u16> {
        let own = (self.first != 0).then(|| self.first.saturating_add(worker))?;
        if self.is_chosen || is_free(own) {
            return Some(own);
        }
        let other = (own..=u16::MAX).skip(1).find(|port| is_free(*port)).unwrap_or(own);
        tracing::info!("Port {own} is in use. The worker's own server uses {other} (--worker-http-port).");
        Some(other)
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_port(wanted: u16, count: u16, is_chosen: bool) -> u16 {
        HttpPorts::find(wanted, count, is_chosen).unwrap().first
    }

    #[test]
    fn ports_in_use_are_passed_over_unless_they_were_chosen() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = held.local_addr().unwrap().port();
        let error = HttpPorts::find(port, 1, true).unwrap_err().to_string();
        assert!(error.contains("--worker-http-port") && error.contains(&port.to_string()), "{error}");
        if port < u16::MAX - 100 {
            assert!(first_port(port, 2, false) > port);
            assert!(first_port(port - 1, 2, false) != port - 1, "the second of two is in use");
        }
        assert_eq!((first_port(0, 9, true), first_port(port, 0, true)), (0, port));
    }

    #[test]
    fn a_port_that_was_taken_since_is_passed_over_unless_it_was_chosen() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = held.local_addr().unwrap().port();
        let ports = HttpPorts { first: port - 1, is_chosen: false };
        assert!(ports.next_of(1).is_some_and(|other| other > port) || port > u16::MAX - 100);
        assert_eq!(ports.after(1).next_of(0).is_some_and(|other| other != port), port <= u16::MAX - 100);
        assert_eq!(HttpPorts { is_chosen: true, ..ports }.next_of(1), Some(port), "the worker says what is wrong");
        drop(held);
        assert_eq!(ports.next_of(1), Some(port), "it is free again");
        assert_eq!(HttpPorts::default().after(3).next_of(2), None);
    }
}
