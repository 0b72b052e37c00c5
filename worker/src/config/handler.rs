//! Finds the handler program before anything is started.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::environment::Environment;
use super::settings::Settings;

/// How to start the handler program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerConfig {
    /// An executable file.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// `CUDA_VISIBLE_DEVICES` of each process; empty when there is only one, which sees what the worker sees.
    pub devices: Vec<String>,
}

/// The program behind `--`, or `RUNPOD_WORKER_HANDLER`.
pub(super) fn find<E: Environment>(settings: &mut Settings<'_, E>, given: &[OsString]) -> HandlerConfig {
    const VARIABLE: &str = "RUNPOD_WORKER_HANDLER";
    settings.know(VARIABLE);
    let (program, args, origin) = match (given.split_first(), settings.env.get(VARIABLE)) {
        (Some((program, args)), _) => (PathBuf::from(program), args.to_vec(), "command line"),
        (None, Some(program)) => (PathBuf::from(program), Vec::new(), VARIABLE),
        (None, None) => {
            settings.problems.push(format!(
                "there is no handler program: name it last, as in `runpod-worker run -- ./my-handler`, or set {VARIABLE}"
            ));
            return HandlerConfig { program: PathBuf::new(), args: Vec::new(), devices: Vec::new() };
        }
    };
    let found = resolve(&program, settings.env.get("PATH").as_deref());
    let program = match found {
        Ok(found) => {
            settings.show("handler", &found.to_string_lossy(), origin);
            found
        }
        Err(problem) => {
            settings.problems.push(format!("{origin}: the handler `{}` {problem}", program.display()));
            program
        }
    };
    HandlerConfig { program, args, devices: Vec::new() }
}

/// The GPU of each process: the first ones of `CUDA_VISIBLE_DEVICES`, or those numbered from 0.
pub(super) fn devices<E: Environment>(settings: &mut Settings<'_, E>, processes: usize) -> Vec<String> {
    const VARIABLE: &str = "CUDA_VISIBLE_DEVICES";
    if processes == 1 {
        return Vec::new();
    }
    let Some(visible) = settings.env.get(VARIABLE) else {
        return (0..processes).map(|index| index.to_string()).collect();
    };
    let devices: Vec<String> = visible.split(',').map(|device| device.trim().to_owned()).take(processes).collect();
    if devices.len() < processes {
        settings.problems.push(format!(
            "{VARIABLE} names {} of the {processes} GPUs that as many processes need: name more, or use fewer --processes",
            devices.len()
        ));
    }
    devices
}

/// A name without `/` is looked up in `PATH`, as a shell does.
fn resolve(program: &Path, path: Option<&str>) -> Result<PathBuf, String> {
    if program.components().count() == 1 && !program.as_os_str().to_string_lossy().contains('/') {
        return std::env::split_paths(path.unwrap_or_default())
            .map(|folder| folder.join(program))
            .find(|candidate| check(candidate).is_ok())
            .ok_or_else(|| format!("is not in PATH: for a file in this folder write ./{}", program.display()));
    }
    check(program).map(|()| program.to_path_buf())
}

fn check(program: &Path) -> Result<(), String> {
    match program.metadata() {
        Err(error) => Err(format!("cannot be read ({error}): build it, or correct the path")),
        Ok(found) if !found.is_file() => Err("is not a file: name the program, not its folder".to_owned()),
        Ok(_) => access(program, Access::EXEC_OK)
            .map_err(|_| format!("is not executable: run `chmod +x {}`", program.display())),
    }
}
