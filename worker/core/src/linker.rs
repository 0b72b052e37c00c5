//! Advice for programs that the dynamic linker could not start. Its own messages do not name a fix.

use crate::boundary::Exit;

/// What to do about an exit that the linker has caused; `None` for all other exits.
pub fn advice(exit: &Exit) -> Option<String> {
    exit.last_lines.iter().rev().find_map(|line| advice_for(line))
}

fn advice_for(line: &str) -> Option<String> {
    if let Some((_, rest)) = line.split_once("error while loading shared libraries: ") {
        let (library, problem) = rest.split_once(": ")?;
        return Some(match problem.starts_with("cannot open shared object file") {
            true => format!(
                "{library} is not where programs look: build the image on a worker-base image, or name its folder in \
                 /etc/ld.so.conf.d and run ldconfig"
            ),
            false => format!("{library} is damaged or for another machine: install it again"),
        });
    }
    // "…: version `GLIBC_2.38' not found (required by /app/handler)"
    if let Some((version, _)) = line.split_once("' not found (required by ") {
        let (_, version) = version.rsplit_once('`')?;
        return Some(format!(
            "the handler was built on a newer system than this one, which lacks {version}: build it in the builder image"
        ));
    }
    if line.contains("symbol lookup error: ") {
        return Some(
            "the handler was built with another version of this library: build it in the builder image".to_owned(),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boundary::ExitReason;

    #[test]
    fn each_message_of_the_linker_leads_to_a_fix_and_other_lines_to_none() {
        let table = [
            (
                "/app/handler: error while loading shared libraries: libtorch_cpu.so: cannot open shared object file: No such \
                 file or directory",
                Some("libtorch_cpu.so is not where programs look"),
            ),
            (
                "/app/handler: error while loading shared libraries: /opt/libtorch/torch/lib/libc10.so: file too short",
                Some("/opt/libtorch/torch/lib/libc10.so is damaged"),
            ),
            (
                "/app/handler: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by /app/handler)",
                Some("which lacks GLIBC_2.38: build it in the builder image"),
            ),
            (
                "/app/handler: symbol lookup error: /app/handler: undefined symbol: _ZN2at4_ops3add4callEv",
                Some("another version of this library"),
            ),
            ("thread 'main' panicked at src/main.rs:3:5:", None),
            ("error while loading shared libraries: ", None),
        ];
        for (line, expected) in table {
            let last_lines = vec![line.to_owned(), "one more line".to_owned()];
            let exit = Exit { status: ExitReason::Code(127), host_oom: false, last_lines };
            match (advice(&exit), expected) {
                (Some(advice), Some(words)) => assert!(advice.contains(words), "{advice}"),
                (advice, expected) => assert_eq!(advice.as_deref(), expected, "{line}"),
            }
        }
    }
}
