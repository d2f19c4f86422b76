//! The threads that talk to an engine.

use std::future::Future;
use std::io;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};

/// Threads that wait for sockets.
const WORKERS: usize = 2;
/// Threads for what blocks: names that are looked up, files.
const BLOCKING: usize = 4;

/// What a thread of ours does first and last. `machvm run` tells its threads from the
/// program's by that.
#[derive(Clone, Copy, Debug)]
pub struct Hooks {
    /// On the new thread.
    pub started: fn(),
    /// On the thread, at its end.
    pub ended: fn(),
}

impl Default for Hooks {
    fn default() -> Self {
        Hooks { started: || {}, ended: || {} }
    }
}

/// A private tokio runtime. All its threads are there when [`Threads::start`] returns: none
/// starts later, on behalf of somebody whose restrictions it would inherit.
pub(super) struct Threads(Option<tokio::runtime::Runtime>);

impl Threads {
    /// # Errors
    /// The system's limit on threads.
    pub(super) fn start(hooks: Hooks) -> io::Result<Threads> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING)
            .thread_keep_alive(Duration::from_secs(u64::from(u32::MAX)))
            .thread_name("machvm-remote")
            .on_thread_start(hooks.started)
            .on_thread_stop(hooks.ended)
            .enable_all()
            .build()?;
        // Each waits until all of them are there.
        let all = Arc::new(Barrier::new(BLOCKING + 1));
        for _ in 0..BLOCKING {
            let all = Arc::clone(&all);
            runtime.spawn_blocking(move || all.wait());
        }
        all.wait();
        Ok(Threads(Some(runtime)))
    }
    /// To start tasks with, and to wait for them from other threads.
    pub(super) fn handle(&self) -> &Handle {
        self.0.as_ref().expect("there until it is dropped").handle()
    }
    /// Waits for `future` on this thread, which is none of ours.
    pub(super) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.handle().block_on(future)
    }
}

impl Drop for Threads {
    /// Tasks end where they wait.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A task may be the last that used it: it cannot wait for itself.
            match Handle::try_current() {
                Ok(_) => runtime.shutdown_background(),
                Err(_) => runtime.shutdown_timeout(Duration::from_secs(1)),
            }
        }
    }
}
