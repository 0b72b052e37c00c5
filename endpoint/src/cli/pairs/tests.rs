use clap::{CommandFactory, FromArgMatches};

use super::super::args::{Cli, Command};
use super::*;

/// What is wrong with `serve` and these arguments, and with this configuration file.
fn problems(args: &[&str], file: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endpoints.toml");
    std::fs::write(&path, file).unwrap();
    let config = Config::load(Some(&path)).unwrap();
    let command = Cli::command();
    let matches = command.clone().try_get_matches_from(["runpod-endpoint", "serve"].iter().chain(args)).unwrap();
    let Command::Serve(serve) = Cli::from_arg_matches(&matches).unwrap().command else { panic!("not serve") };
    let effective = Effective::of(command.find_subcommand("serve").unwrap(), matches.subcommand().unwrap().1);
    let settings = Settings {
        listen: &serve.listen,
        workers: &serve.workers,
        endpoint_id: &serve.endpoint_id,
        handler: &serve.handler,
        config: &config,
        effective: &effective,
    };
    settings.check().err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn settings_that_cannot_work_together_are_refused_with_the_reason() {
    for (args, part) in [
        (&["--api-key", "k"][..], "leaves the worker API open"),
        (&["--max-result-mib", "600"], "--max-request-memory-mib 512 is less"),
        (&["--max-request-memory-mib", "10"], "give 64 or more"),
        (&["--max-reply-memory-mib", "10"], "--max-reply-memory-mib 10 is less"),
        (&["--workers-min", "3", "--workers-max", "2", "--", "h"], "--workers-min 3 is more than --workers-max 2"),
        (&["--workers-max", "2"], "no effect without a handler"),
        (&["--workers", "1"], "no effect without a handler"),
        (&["--worker-http-port", "65535", "--workers", "2", "--", "h"], "leaves no ports for 2 workers"),
        (&["--worker-http-port", "7999", "--workers-max", "2", "--", "h"], "include the server's own port 8000"),
        (&["--cors-allow-origin", "*"], "lets every web page run jobs"),
        (&["--gpus", "0,0", "--", "h"], "twice"),
        (&["--gpus", "0,1,2", "--gpus-per-worker", "2", "--", "h"], "sets of --gpus-per-worker 2"),
    ] {
        let text = problems(args, "");
        assert!(text.contains(part), "{args:?}: {text}");
    }
}

#[test]
fn several_contradictions_are_named_at_once() {
    let text = problems(&["--api-key", "k", "--workers-max", "2"], "");
    assert!(text.contains("worker API open") && text.contains("without a handler"), "{text}");
}

#[test]
fn endpoints_of_the_file_are_checked_with_the_flags() {
    for (args, file, part) in [
        (&[][..], "[[endpoint]]\nid = \"a\"\nexecution_timeout = \"2h\"\nttl = \"1h\"", "no job could use it up"),
        (&[], "[[endpoint]]\nid = \"a\"\nlease = \"20s\"\nttl = \"15s\"", "no lost job"),
        (&["--lease", "2m"], "[[endpoint]]\nid = \"a\"\nttl = \"1m\"", "no lost job"),
        (&["--", "h"], "[[endpoint]]\nid = \"local\"\nhandler = [\"h\"]", "has a handler on the command line"),
        (
            &["--worker-http-port", "7998"],
            "[[endpoint]]\nid = \"a\"\nhandler = [\"h\"]\nworkers_max = 3",
            "own port 8000",
        ),
        (
            &["--worker-http-port", "7997"],
            "[[endpoint]]\nid = \"a\"\nhandler = [\"h\"]\nworkers_min = 4",
            "own port 8000",
        ),
    ] {
        let text = problems(args, file);
        assert!(text.contains(part), "{args:?}: {text}");
    }
}

#[test]
fn sockets_that_need_one_address_are_refused() {
    let balancers = |one: &str, other: &str| {
        let endpoint = |id, bind| {
            format!("[[endpoint]]\nid = \"{id}\"\nhandler = [\"h\"]\nload_balancer = {{ bind = \"{bind}\" }}\n")
        };
        endpoint("a", one) + &endpoint("b", other)
    };
    for (args, file, part) in [
        (&[][..], balancers("127.0.0.1:8100", "127.0.0.1:8100"), "of endpoint \"a\" 127.0.0.1:8100 and"),
        (&["--insecure-no-auth"], balancers("0.0.0.0:8100", "127.0.0.1:8100"), "of endpoint \"b\" 127.0.0.1:8100 need"),
        (&[], balancers("127.0.0.1:8100", "127.0.0.1:8000"), "--bind 127.0.0.1:8000 and `load_balancer.bind`"),
        (
            &["--worker-http-port", "8100"],
            balancers("127.0.0.1:8099", "127.0.0.1:8101"),
            "own port 8101 (`load_balancer.bind` of endpoint \"b\")",
        ),
    ] {
        let text = problems(args, &file);
        assert!(text.contains(part), "{file}: {text}");
    }
    // Ports that nobody has chosen are taken elsewhere.
    assert_eq!(problems(&[], &balancers("127.0.0.1:8001", "127.0.0.1:8002")), "");
    assert_eq!(problems(&[], &balancers("127.0.0.1:0", "127.0.0.1:0")), "");
}

#[test]
fn an_overflow_that_sends_nothing_or_sends_in_circles_is_refused() {
    let overflow = |id: &str, to: &str, rest: &str| {
        format!("[[endpoint]]\nid = \"{id}\"\noverflow = {{ url = \"http://{to}\", after = \"20s\"{rest} }}\n")
    };
    let own = |id| format!("127.0.0.1:8000/v2/{id}");
    let cost = ", price_per_hour = 1.0, max_dollars_per_hour = 0.1";
    for (file, part) in [
        (overflow("a", &own("a"), ""), "endpoint \"a\": `overflow.url` is, or leads back to, this endpoint itself"),
        (overflow("a", &own("b"), "") + &overflow("b", &own("a"), ""), "endpoint \"b\": `overflow.url` is, or leads"),
        (
            overflow("a", &own("b"), "")
                + "[[endpoint]]\nid = \"b\"\nhandler = [\"h\"]\nload_balancer = { bind = \"127.0.0.1:8100\" }",
            "has no queue",
        ),
        (overflow("a", "far/v2/x", "").replace("20s\"", "20s\" }\nttl = \"15s\"\n#"), "no job would be sent"),
        (overflow("a", "far/v2/x", cost), "one job may cost, which may run for 10m"),
    ] {
        let text = problems(&[], &file);
        assert!(text.contains(part), "{file}: {text}");
    }
    for file in [
        overflow("a", &own("b"), "") + &overflow("b", "far/v2/x", ""),
        overflow("a", "far/v2/x", cost) + "execution_timeout = \"5m\"",
    ] {
        assert_eq!(problems(&[], &file), "", "{file}");
    }
}

#[test]
fn usual_settings_are_accepted() {
    for (args, file) in [
        (&[][..], ""),
        (&["--api-key", "a", "--worker-key", "b"], ""),
        (&["--api-key", "a", "--", "h"], ""),
        (&["--worker-key", "b"], ""),
        (&["--cors-allow-origin", "http://localhost:3000"], ""),
        (&["--cors-allow-origin", "*", "--api-key", "a", "--worker-key", "b"], ""),
        (&["--api-key", "a", "--insecure-no-auth"], ""),
        (&["--bind", "127.0.0.1:8001", "--worker-http-port", "0", "--", "h"], ""),
        (&["--lease", "5s", "--workers-min", "0", "--workers-max", "4", "--", "h"], ""),
        (&["--workers-max", "2"], "[[endpoint]]\nid = \"a\"\nhandler = [\"h\"]"),
        (&["--gpus", "0,1,2,3", "--gpus-per-worker", "2", "--", "h"], ""),
        (&[], "[[endpoint]]\nid = \"a\"\nexecution_timeout = \"5m\"\nttl = \"2h\"\nlease = \"40s\""),
    ] {
        assert_eq!(problems(args, file), "", "{args:?}");
    }
}
