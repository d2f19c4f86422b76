//! Questions to a run, over its control socket (`docs/control.md`).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use machvm_linux::run::control_directory;

/// Where the run listens: a process id stands for its usual socket.
///
/// # Errors
/// One sentence.
fn socket(run: &str) -> Result<PathBuf, String> {
    if run.is_empty() || !run.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(run.into());
    }
    let dir = control_directory()
        .ok_or("XDG_RUNTIME_DIR is not set: name the socket that was given to `machvm run --control`")?;
    Ok(dir.join(format!("{run}.sock")))
}

/// Asks, and gives the answer's text.
///
/// # Errors
/// One sentence: the run's own, or why it could not be asked.
pub(crate) fn ask(run: &str, request: &str) -> Result<String, String> {
    if request.contains('\n') {
        return Err("a request is one line".into());
    }
    let path = socket(run)?;
    let failed = |e: std::io::Error| format!("cannot ask the run at {} (does it run?): {e}", path.display());
    let mut stream = UnixStream::connect(&path).map_err(failed)?;
    stream.write_all(format!("{request}\n").as_bytes()).map_err(failed)?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).map_err(failed)?;
    match reply.split_once('\n') {
        Some(("ok", text)) => Ok(text.into()),
        Some(("error", text)) => Err(text.into()),
        _ => Err(format!("the answer of {} makes no sense: is it a run of machvm?", path.display())),
    }
}
