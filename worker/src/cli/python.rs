//! The flags of RunPod's Python worker, as far as they have a meaning here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::Args;

use crate::config::RunArgs;

/// The flags of a program that calls `runpod.serverless.start`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "As in RunPod's Python worker")]
pub struct PythonArgs {
    /// Run this job, `{"input": …}`, print its result and end, as `runpod-worker test` does
    #[arg(long = "test_input", alias = "test-input", value_name = "JSON", conflicts_with = "rp_serve_api")]
    pub test_input: Option<String>,

    /// Answer POST /runsync, as `runpod-worker serve` does. An API with all routes is `runpod-endpoint dev`
    #[arg(long = "rp_serve_api")]
    pub rp_serve_api: bool,

    /// Port of that API
    #[arg(long = "rp_api_port", value_name = "PORT", default_value_t = 8000, requires = "rp_serve_api")]
    pub rp_api_port: u16,

    /// Address of that API
    #[arg(long = "rp_api_host", value_name = "ADDRESS", default_value = "localhost", requires = "rp_serve_api", value_parser = host)]
    pub rp_api_host: IpAddr,

    /// Handler processes of that API: --processes
    #[arg(long = "rp_api_concurrency", value_name = "N", requires = "rp_serve_api")]
    pub rp_api_concurrency: Option<String>,

    /// --log-level
    #[arg(long = "rp_log_level", value_name = "LEVEL", conflicts_with = "log_level")]
    pub rp_log_level: Option<String>,

    /// Has no effect: times of a job are in the log, in what `runpod-worker test` prints and in traces (--otlp-endpoint)
    #[arg(long = "rp_debugger")]
    pub rp_debugger: bool,
}

impl PythonArgs {
    /// The flags of `run` with those that have another name here.
    #[must_use]
    pub fn translated(&self, run: &RunArgs) -> RunArgs {
        let mut run = run.clone();
        run.processes = run.processes.or_else(|| self.rp_api_concurrency.clone());
        run.logs.log_level = run.logs.log_level.or_else(|| self.rp_log_level.clone());
        run
    }

    /// Where the API of `--rp_serve_api` listens.
    #[must_use]
    pub fn api_address(&self) -> SocketAddr {
        SocketAddr::new(self.rp_api_host, self.rp_api_port)
    }
}

fn host(text: &str) -> Result<IpAddr, &'static str> {
    match text {
        "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        _ => text.parse().map_err(|_| "use localhost or an address such as 0.0.0.0"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::{Cli, Command};

    fn parse(flags: &[&str]) -> Result<(String, Option<String>, Option<String>), clap::Error> {
        let cli = Cli::try_parse_from([&["runpod-worker", "run"], flags, &["--", "handler"]].concat())?;
        let Command::Run(args) = cli.command else { panic!("not run") };
        let run = args.python.translated(&args.run);
        Ok((args.python.api_address().to_string(), run.processes, run.logs.log_level))
    }

    #[test]
    fn flags_of_python_have_their_meaning() {
        let given = ["--rp_serve_api", "--rp_api_port", "8008", "--rp_api_host=0.0.0.0", "--rp_api_concurrency=2"];
        assert_eq!(parse(&given).unwrap(), ("0.0.0.0:8008".to_owned(), Some("2".to_owned()), None));
        let given = ["--rp_log_level", "DEBUG", "--rp_debugger"];
        assert_eq!(parse(&given).unwrap(), ("127.0.0.1:8000".to_owned(), None, Some("DEBUG".to_owned())));
        assert!(parse(&["--rp_api_port", "8008"]).is_err(), "without the API");
        assert!(parse(&["--rp_serve_api", "--rp_api_host", "example.com"]).is_err());
    }
}
