//! The store that outlives its process: the same state machine, with every change written to one SQLite file.
//!
//! One thread writes. Each of its transactions holds all changes that came while the one before was on its way to the
//! disk, so that many requests share one sync. Ids, states and times stay in memory, payloads do not.

mod load;
mod open;
mod rows;
mod shared;
mod transfer;
mod write;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;

use super::backing::{Backing, Entry};
use super::clock::Clock;
use super::error::StoreError;
use super::limits::Limits;
use super::payload::{Filed, Payload};
use super::queue::{Mark, Queue};
use super::queue_store::QueueStore;
use super::setup::Setup;
use super::views::JobView;
use load::{ReadError, Readers};
use open::Lock;
use write::{FreePages, Message, Progress, Writer};

pub use open::OpenError;
pub(crate) use transfer::{FileSource, FileTarget};

/// The store in a file.
pub type SqliteStore = QueueStore<SqliteFile>;

/// Changes that may wait for the disk before requests are refused.
const MAX_BACKLOG: u64 = 32_768;

/// Changes that may wait at most. Those that no request causes, such as deadlines, go on while requests are refused.
const MAX_WAITING: usize = 65_536;

/// How long one request waits for the disk.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// One SQLite file with its writer thread and its readers.
pub struct SqliteFile {
    sender: Mutex<Sender>,
    progress: watch::Receiver<Progress>,
    readers: Arc<Readers>,
    closing: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
    /// Keeps other processes away.
    _lock: Lock,
}

/// The way to the writer; hands out marks in the order of sending.
struct Sender {
    channel: Option<mpsc::SyncSender<Box<Message>>>,
    sent: Mark,
}

impl SqliteStore {
    /// Opens or creates the file and puts everything back to where it was. `path` may name a folder.
    ///
    /// Must be used inside a tokio runtime. Blocks while it reads: some microseconds for each job.
    ///
    /// # Errors
    /// When the file cannot be used; the text says what to do.
    pub fn open(path: &Path, setup: impl Into<Setup>) -> Result<Self, OpenError> {
        let setup = setup.into();
        let clock = Clock::start();
        let path = file_in(path);
        let (connection, lock) = open::open(&path)?;
        let restored = load::restore(&connection, &setup, clock.now()).map_err(|error| open::explain(&path, &error))?;
        let (progress_sender, progress) = watch::channel(Progress::default());
        let (channel, receiver) = mpsc::sync_channel(MAX_WAITING);
        let closing = Arc::<AtomicBool>::default();
        let readers = Arc::new(Readers::new(path.clone(), setup.limits.max_read_bytes));
        let writer = Writer {
            connection,
            receiver,
            progress: progress_sender,
            closing: Arc::clone(&closing),
            readers: Arc::clone(&readers),
            free_pages: FreePages::unknown(),
        };
        let runtime = tokio::runtime::Handle::current();
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            let _entered = runtime.enter();
            writer.run();
        });
        let file = SqliteFile {
            sender: Mutex::new(Sender { channel: Some(channel), sent: 0 }),
            progress,
            readers,
            closing,
            writer: Some(thread.map_err(|error| OpenError::Unusable(path, error.to_string()))?),
            _lock: lock,
        };
        Ok(Self::with(setup, clock, file, restored))
    }
}

/// A folder stands for a file of a fixed name in it.
fn file_in(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("endpoint.db") } else { path.to_owned() }
}

impl SqliteFile {
    /// Reads from the file, on a thread that may wait for the disk.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Readers) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let readers = Arc::clone(&self.readers);
        match tokio::task::spawn_blocking(move || read(&readers)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(ReadError::NoMemory(_))) => Err(StoreError::ReadMemoryFull),
            Ok(Err(error)) => {
                tracing::error!(%error, "The data file cannot be read.");
                Err(StoreError::Unavailable(error.to_string().into()))
            }
            Err(_) => Err(StoreError::Unavailable("reading was interrupted".into())),
        }
    }

    fn send(&self, message: Message) -> Mark {
        let mut sender = self.sender.lock();
        sender.sent += 1;
        if let Some(channel) = &sender.channel {
            // Fails only when the writer has stopped; then no mark is ever settled and every request fails.
            let _ = channel.send(Box::new(message));
        }
        sender.sent
    }
}

impl Backing for SqliteFile {
    type Content = Filed;

    fn queue(&self, limits: Limits) -> Queue<Filed> {
        Queue::journaled(limits)
    }

    fn content(payload: Payload) -> Filed {
        Filed::Fresh(payload)
    }

    fn ready(&self) -> Result<(), StoreError> {
        let sent = self.sender.lock().sent;
        let progress = self.progress.borrow();
        match &progress.failure {
            Some(failure) => Err(StoreError::Unavailable(Arc::clone(failure))),
            None if sent.saturating_sub(progress.settled) > MAX_BACKLOG => {
                Err(StoreError::Unavailable("the disk is too slow for what is asked of it".into()))
            }
            None => Ok(()),
        }
    }

    fn add_endpoint(&self, endpoint: u32, name: &str) {
        self.send(Message::Endpoint { endpoint, name: name.to_owned() });
    }

    fn remove_endpoint(&self, endpoint: u32) {
        self.send(Message::EndpointGone { endpoint });
    }

    fn append(&self, entry: Entry) -> Mark {
        self.send(Message::Entry(entry))
    }

    async fn settled(&self, mark: Mark) -> Result<(), StoreError> {
        let unavailable = |text: &str| Err(StoreError::Unavailable(text.into()));
        let mut progress = self.progress.clone();
        let waiting = progress.wait_for(|progress| progress.settled >= mark || progress.failure.is_some());
        match timeout(SETTLE_LIMIT, waiting).await {
            Ok(Ok(progress)) => match &progress.failure {
                Some(failure) if progress.settled < mark => Err(StoreError::Unavailable(Arc::clone(failure))),
                _ => Ok(()),
            },
            Ok(Err(_)) => unavailable("its writer has stopped; restart the endpoint"),
            Err(_) => unavailable("the disk does not answer"),
        }
    }

    async fn load(&self, endpoint: u32, contents: Vec<Filed>) -> Result<Vec<Option<Payload>>, StoreError> {
        if !contents.iter().any(|content| matches!(content, Filed::Stored { .. })) {
            return Ok(contents.into_iter().map(Filed::fresh).collect());
        }
        self.read(move |readers| readers.load(endpoint, contents)).await
    }

    async fn stored(&self, endpoint: u32, job: u64) -> Result<Option<JobView<Filed>>, StoreError> {
        self.read(move |readers| readers.view(endpoint, job)).await
    }
}

impl Drop for SqliteFile {
    /// Writes what is left and closes the file, so that it can be opened again at once.
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        self.sender.get_mut().channel = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}
