//! Servers for tests: real ones, on ports of their own, and a proxy that spoils what passes.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Nothing takes as long unless it hangs.
pub(crate) const NEVER: Duration = Duration::from_secs(180);

/// Waits for what others do.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + NEVER;
    while !done() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A directory of its own, removed again.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(what: &str) -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("machvm-{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, SeqCst));
        let dir = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a directory");
        Scratch(dir)
    }
    pub(crate) fn url(&self) -> String {
        format!("opendal+fs://{}", self.0.display())
    }
    /// The files below it, without those that are for locking.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let (mut all, mut dirs) = (Vec::new(), vec![self.0.clone()]);
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
                match entry.path() {
                    p if p.is_dir() => dirs.push(p),
                    p if p.extension().is_some_and(|e| e == "lock" || e == "new") => {}
                    p => all.push(p),
                }
            }
        }
        all
    }
}
impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A port that nobody has. Somebody may take it before the server does: then that does not
/// start, and another is tried.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
}

/// A server's process, killed when dropped.
struct Process(Child);
impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(command: &mut Command) -> Process {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    Process(child.unwrap_or_else(|e| panic!("{command:?}: {e}; .ci/run installs it")))
}

/// Debian's redis-server.
pub(crate) struct Redis {
    process: Option<Process>,
    pub(crate) port: u16,
    dir: Scratch,
    keeps: bool,
}

impl Redis {
    /// One that writes all to a file at once, and so survives being killed.
    pub(crate) fn new() -> Redis {
        Redis::with(true)
    }
    /// One that has nothing when it is started again.
    pub(crate) fn forgetful() -> Redis {
        Redis::with(false)
    }
    fn with(keeps: bool) -> Redis {
        let dir = Scratch::new("redis");
        let mut redis = Redis { process: None, port: 0, dir, keeps };
        for _ in 0..20 {
            redis.port = free_port();
            if redis.launch() {
                return redis;
            }
        }
        panic!("redis-server does not start");
    }
    /// `false`: it did not start, or on a port that somebody else has.
    fn launch(&mut self) -> bool {
        let port = self.port.to_string();
        let mut command = Command::new("redis-server");
        command.current_dir(&self.dir.0).args(["--port", &port, "--bind", "127.0.0.1"]);
        command.args([
            "--save",
            "",
            "--appendonly",
            if self.keeps { "yes" } else { "no" },
            "--appendfsync",
            "no",
            "--daemonize",
            "no",
        ]);
        let mut process = start(&mut command);
        let end = Instant::now() + NEVER;
        while Instant::now() < end {
            if process.0.try_wait().expect("wait").is_some() {
                return false;
            }
            let ours = format!("process_id:{}\r", process.0.id());
            if self.ask(&["INFO", "server"]).is_ok_and(|said| said.contains(&ours)) {
                self.process = Some(process);
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
    /// As `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }
    /// Killed and started: with what it had, or with nothing.
    pub(crate) fn restart(&mut self) {
        self.kill();
        until("redis starts again", || self.launch());
    }
    pub(crate) fn url(&self, prefix: &str) -> String {
        format!("redis://127.0.0.1:{}/{prefix}", self.port)
    }
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }
    /// Sends one command; what came first of the answer.
    pub(crate) fn ask(&self, words: &[&str]) -> std::io::Result<String> {
        let mut s = TcpStream::connect(self.address())?;
        s.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut command = format!("*{}\r\n", words.len());
        words.iter().for_each(|w| command += &format!("${}\r\n{w}\r\n", w.len()));
        s.write_all(command.as_bytes())?;
        let mut said = vec![0; 1 << 16];
        let n = s.read(&mut said)?;
        Ok(String::from_utf8_lossy(&said[..n]).into_owned())
    }
    /// The names of all keys.
    pub(crate) fn all_keys(&self) -> Vec<String> {
        let mut s = TcpStream::connect(self.address()).expect("it listens");
        s.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        // It hangs up after the second answer.
        s.write_all(b"KEYS *\r\nQUIT\r\n").expect("it listens");
        let mut said = String::new();
        s.read_to_string(&mut said).expect("it answers");
        said.lines().filter(|l| !l.starts_with(['*', '$', '+'])).map(str::to_owned).collect()
    }
    /// How many keys it has.
    pub(crate) fn keys(&self) -> u64 {
        let said = self.ask(&["DBSIZE"]).expect("it answers");
        said.trim().trim_start_matches(':').parse().unwrap_or_else(|_| panic!("{said:?}"))
    }
}

/// What speaks S3: moto's server. It has nothing when it is started again.
pub(crate) struct S3 {
    process: Option<Process>,
    port: u16,
}

impl S3 {
    /// With a bucket `pages`.
    pub(crate) fn new() -> S3 {
        let mut s3 = S3 { process: None, port: 0 };
        for _ in 0..20 {
            s3.port = free_port();
            if s3.launch() {
                return s3;
            }
        }
        panic!("{} does not start", S3::program());
    }
    fn program() -> String {
        let near = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/moto/bin/moto_server");
        let otherwise = || if Path::new(near).exists() { near.into() } else { "moto_server".into() };
        std::env::var("MACHVM_S3_SERVER").unwrap_or_else(|_| otherwise())
    }
    /// `false`: it did not start.
    fn launch(&mut self) -> bool {
        let port = self.port.to_string();
        let mut process = start(Command::new(S3::program()).args(["-H", "127.0.0.1", "-p", &port]));
        let end = Instant::now() + NEVER;
        while process.0.try_wait().expect("wait").is_none() && Instant::now() < end {
            // Only moto answers so; it takes what is not signed.
            if http(self.port, "PUT /pages").is_ok_and(|a| a.starts_with("HTTP/1.1 200")) {
                self.process = Some(process);
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }
    /// Killed and started, with an empty bucket.
    pub(crate) fn restart(&mut self) {
        self.process = None;
        until("the server starts again", || self.launch());
    }
    pub(crate) fn url(&self, prefix: &str) -> String {
        format!("s3://pages/{prefix}?endpoint=http://127.0.0.1:{}&region=us-east-1", self.port)
    }
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }
    /// How many keys it has.
    pub(crate) fn keys(&self) -> usize {
        let said = http(self.port, "GET /pages?list-type=2").expect("it answers");
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
        said.matches("<Key>").count()
    }
    /// Runs the test of that name in a process whose environment has the server's keys;
    /// `true` in that process.
    pub(crate) fn has_keys(test: &str) -> bool {
        if std::env::var(S3::ENV[0].0).is_ok() {
            return true;
        }
        let program = std::env::current_exe().expect("its name");
        let done = Command::new(program).args(["--exact", test, "--nocapture"]).envs(S3::ENV).status();
        assert!(done.expect("it runs").success(), "{test} failed, see above");
        false
    }
    /// What the environment must have for it.
    pub(crate) const ENV: [(&'static str, &'static str); 2] =
        [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];
}

fn http(port: u16, request: &str) -> std::io::Result<String> {
    let mut s = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
    s.set_read_timeout(Some(Duration::from_secs(30)))?;
    // As if it were signed: moto looks up whose key it is, and lets it pass.
    let head = "Host: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n";
    write!(s, "{request} HTTP/1.1\r\n{head}\r\n")?;
    let mut said = String::new();
    s.read_to_string(&mut said)?;
    Ok(said)
}

/// What a [`Proxy`] does to answers.
#[derive(Default)]
pub(crate) struct Harm {
    /// One piece in so many is cut off in its middle, and the connection with it; 0: none.
    pub(crate) cut: AtomicU32,
    /// One piece in so many has a byte changed.
    pub(crate) garble: AtomicU32,
    /// One piece in so many is held up, for so many milliseconds.
    pub(crate) delay: [AtomicU32; 2],
    /// Nothing passes either way.
    pub(crate) stall: AtomicBool,
    /// How often any was done.
    pub(crate) done: AtomicU64,
}

/// Between a client and a server.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    pub(crate) harm: Arc<Harm>,
    ended: Arc<AtomicBool>,
}

impl Proxy {
    pub(crate) fn new(to: SocketAddr, seed: u64) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (harm, ended) = (Arc::new(Harm::default()), Arc::new(AtomicBool::new(false)));
        let (h, e) = (Arc::clone(&harm), Arc::clone(&ended));
        let random = Arc::new(Mutex::new(seed | 1));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if e.load(SeqCst) {
                    return;
                }
                let Ok(server) = TcpStream::connect(to) else { continue };
                let pair = |a: &TcpStream, b: &TcpStream| Some((a.try_clone().ok()?, b.try_clone().ok()?));
                for ((from, to), answers) in [(pair(&client, &server), false), (pair(&server, &client), true)]
                    .into_iter()
                    .filter_map(|(p, a)| Some((p?, a)))
                {
                    let (h, r) = (Arc::clone(&h), Arc::clone(&random));
                    std::thread::spawn(move || pass(&from, &to, &h, &r, answers));
                }
            }
        });
        Proxy { port, harm, ended }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, SeqCst);
        let _ = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.port)));
    }
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, harm: &Harm, random: &Mutex<u64>, answers: bool) {
    let mut bytes = vec![0; 16 << 10];
    let next = || {
        let mut r = random.lock().expect("nobody panics here");
        *r ^= *r << 13;
        *r ^= *r >> 7;
        *r ^= *r << 17;
        *r >> 11
    };
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        while harm.stall.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let one_in = |n: &AtomicU32| {
            let n = n.load(SeqCst);
            let hit = answers && n != 0 && next().is_multiple_of(u64::from(n));
            harm.done.fetch_add(u64::from(hit), SeqCst);
            hit
        };
        if one_in(&harm.delay[0]) {
            std::thread::sleep(Duration::from_millis(harm.delay[1].load(SeqCst).into()));
        }
        let cut = one_in(&harm.cut);
        if one_in(&harm.garble) {
            let at = next() as usize % n;
            bytes[at] ^= 1 << (at % 8);
        }
        let n = if cut { n / 2 } else { n };
        if to.write_all(&bytes[..n]).is_err() || cut {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
