//! Processes that keep pages for others: an external pager in C, and Redis. Each ends with its
//! value.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(command: &mut Command) -> Result<Process, String> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    Ok(Process(child))
}

/// Until it serves; not for longer than it lives.
fn until(process: &mut Process, mut serves: impl FnMut() -> bool) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    while !serves() {
        if !matches!(process.0.try_wait(), Ok(None)) || Instant::now() > end {
            return Err("it does not start".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// `crates/pagers/examples/pager.c`.
pub(crate) struct Pager {
    _process: Process,
    /// Where it listens.
    pub(crate) socket: PathBuf,
}

impl Pager {
    /// Builds and starts it; its files are in `dir`.
    ///
    /// # Errors
    /// Why that is not possible.
    pub(crate) fn new(dir: &Path) -> Result<Pager, String> {
        let pagers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/pagers");
        let (program, socket) = (dir.join("pager"), dir.join("pager.sock"));
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-pthread", "-I"]).arg(pagers.join("include")).arg("-o").arg(&program);
        let built = cc.arg(pagers.join("examples/pager.c")).status().map_err(|e| format!("cc: {e}"))?;
        if !built.success() {
            return Err(format!("cc: {built}"));
        }
        let mut process = start(Command::new(program).arg(&socket))?;
        // A datagram socket is of the wrong kind for it, once somebody listens.
        let wrong = || UnixDatagram::unbound().and_then(|d| d.connect(&socket)).err();
        until(&mut process, || wrong().is_some_and(|e| e.raw_os_error() == Some(libc::EPROTOTYPE)))
            .map_err(|e| format!("{}: {e}", socket.display()))?;
        Ok(Pager { _process: process, socket })
    }
}

/// A Redis server that keeps everything in memory.
pub(crate) struct Redis {
    _process: Process,
    /// On the loopback interface.
    pub(crate) port: u16,
}

impl Redis {
    /// # Errors
    /// It is not installed, or does not start.
    pub(crate) fn new(dir: &Path) -> Result<Redis, String> {
        let mut why = String::new();
        // Somebody may take the port before it does.
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
            let port = free.map_err(|e| e.to_string())?.port();
            let mut command = Command::new("redis-server");
            command.current_dir(dir).args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
            command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
            let mut process = start(&mut command)?;
            match until(&mut process, || ask(port, &["PING"]).is_ok_and(|a| a == "PONG")) {
                Ok(()) => return Ok(Redis { _process: process, port }),
                Err(e) => why = format!("redis-server: {e}"),
            }
        }
        Err(why)
    }
    /// A command whose answer is a line or a short text.
    ///
    /// # Errors
    /// Of the connection, or of the server.
    pub(crate) fn ask(&self, words: &[&str]) -> Result<String, String> {
        ask(self.port, words)
    }
}

fn ask(port: u16, words: &[&str]) -> Result<String, String> {
    let talk = || -> std::io::Result<String> {
        let mut s = TcpStream::connect(("127.0.0.1", port))?;
        s.set_read_timeout(Some(PATIENCE))?;
        let mut text = format!("*{}\r\n", words.len());
        words.iter().for_each(|w| text += &format!("${}\r\n{w}\r\n", w.len()));
        s.write_all(text.as_bytes())?;
        let mut s = BufReader::new(s);
        let mut line = String::new();
        s.read_line(&mut line)?;
        match line.trim_end().split_at_checked(1) {
            Some(("$", n)) => {
                let mut bytes = vec![0; n.parse().unwrap_or(0)];
                s.read_exact(&mut bytes)?;
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Some(("+" | ":", rest)) => Ok(rest.to_owned()),
            _ => Err(std::io::Error::other(line.trim_end().to_owned())),
        }
    };
    talk().map_err(|e| format!("redis at port {port}: {e}"))
}
