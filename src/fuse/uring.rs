//! Requests over io_uring instead of `/dev/fuse` (Linux 6.14, `Documentation/filesystems/fuse-io-uring.rst`).
//!
//! The kernel has a queue for every processor, and a request joins that of the processor on which its caller runs. A
//! *place* is memory for one request and its answer, given to the kernel; a *lane* is a thread on one processor with a
//! ring of its own and places in that processor's queue. One system call hands an answer over and waits for what comes
//! next, and caller and lane take turns on one processor, without waking another: that is where time is saved.
//!
//! Two things keep a lane from holding others up. A request that moves much data goes to [`Hands`], threads that run
//! wherever a processor is idle. And a lane whose places are all in use elsewhere, for as long as the KMS takes, gives the
//! kernel another one. A lane that works has no place that waits, as a rule: the kernel would give it more work, whoever
//! else is idle.

mod hands;
mod memory;

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::Sender;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use parking_lot::Mutex;
use rustix::event::EventfdFlags;
use rustix::thread::CpuSet;

use super::Adapter;
use super::abi::{OutHeader, op};
use super::device::Device;
use super::reply::Sink;
use super::request::Request;

pub use hands::Hands;
use memory::Memory;

/// A READ or WRITE from so many bytes on goes to [`Hands`]: waking a thread there costs a tenth of what it takes, at most.
const LARGE: u32 = 128 << 10;
/// Requests of one lane that [`Hands`] have at the same time: more wait in the kernel, not in this process's memory.
const HEAVY: usize = 2;
/// Requests that may be waited for elsewhere at the same time, in all lanes together; each has memory that is touched
/// only as far as it is used.
const MOST_PLACES: usize = 4096;

/// `FUSE_IO_URING_CMD_REGISTER`.
const REGISTER: u32 = 1;
/// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`.
const COMMIT_AND_FETCH: u32 = 2;
/// Marks the completion of a read of [`Answers::event`]; others carry the number of a place.
const WOKEN: u64 = u64::MAX;

/// What a lane has to hand over to the kernel.
struct Answers {
    /// Numbers of places that were answered.
    done: Mutex<Vec<usize>>,
    /// Requests that hands have.
    heavy: AtomicUsize,
    /// Written where somebody else than the lane's own thread has done something.
    event: OwnedFd,
}

impl Answers {
    fn wake(&self) {
        // Nothing can go wrong but a counter of 2^64 - 2.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }
}

/// The right to answer the request in one place of a lane. Whoever has it may write the place's memory; it ends with the
/// answer.
pub struct Place {
    answers: Arc<Answers>,
    memory: Arc<Memory>,
    number: usize,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place({})", self.number)
    }
}

thread_local! {
    /// Whose lane this thread is.
    static LANE: Cell<*const Answers> = const { Cell::new(std::ptr::null()) };
}

impl Place {
    pub fn answer(self, header: &OutHeader, parts: &[&[u8]]) {
        // SAFETY: there is one `Place` for a request that the kernel has handed over, and it ends here.
        unsafe { self.memory.answer(header, parts) };
        self.hand_over();
    }

    /// Where the data of an answer may be put. It overlaps nothing of a request without data, and of no other may it be
    /// asked while the request is still read.
    pub fn room(&mut self) -> &mut [u8] {
        // SAFETY: this `Place` has the memory to itself until it answers.
        unsafe { std::slice::from_raw_parts_mut(self.memory.payload(), Memory::PAYLOAD) }
    }

    /// Answers with these bytes of [`Self::room`].
    pub fn answer_from_room(mut self, header: &OutHeader, range: std::ops::Range<usize>) {
        let len = range.len();
        if range.start > 0 {
            self.room().copy_within(range, 0);
        }
        // SAFETY: as in `answer`; what the kernel reads of the payload is in its place.
        unsafe {
            self.memory.answer(header, &[]);
            (*self.memory.headers()).payload_len = len as u32;
        }
        self.hand_over();
    }

    fn hand_over(self) {
        self.answers.done.lock().push(self.number);
        if LANE.get() != Arc::as_ptr(&self.answers) {
            self.answers.wake();
        }
    }
}

fn carry_out(adapter: &Adapter, place: Place) {
    let memory = place.memory.clone();
    // SAFETY: the place says that the request was not answered, and `handle` uses no byte of it after it has answered: what
    // is answered later owns what it needs.
    let bytes = unsafe { memory.request() };
    match Request::parse(bytes) {
        Ok(request) => adapter.handle(request, Sink::Uring(place)),
        Err(_) => {
            tracing::error!("the kernel's request has no header");
            place.answer(&OutHeader::default(), &[]);
        }
    }
}

/// Whether a request goes to [`Hands`].
fn is_heavy(memory: &Memory) -> bool {
    // SAFETY: the kernel has handed the place over.
    let (opcode, size) = unsafe { memory.opcode_and_size() };
    match opcode {
        op::READ | op::WRITE => size >= LARGE,
        op::COPY_FILE_RANGE => true,
        _ => false,
    }
}

/// One thread on one processor.
pub struct Lane {
    pub device: Arc<Device>,
    pub hands: Arc<Hands>,
    /// The processor to stay on.
    pub processor: usize,
    /// It does what no hand is idle for itself. One lane of a processor does: each thread that ever did keeps buffers of some
    /// MiB.
    pub does_heavy: bool,
    /// Queues that it has a place in, by the number of their processor: its own, and perhaps some of processors that are
    /// not there.
    pub queues: Vec<u16>,
    /// Places that all lanes together may still make.
    pub spare: Arc<AtomicUsize>,
    /// Has the kernel send some request from the lane's processor: see [`Serving::add_place`].
    pub nudge: Nudge,
}

/// Called by a lane's own thread; does not wait.
pub type Nudge = Arc<dyn Fn() + Send + Sync>;

type Ring = IoUring<squeue::Entry128, cqueue::Entry>;

struct Serving<'a> {
    lane: &'a Lane,
    ring: Ring,
    answers: Arc<Answers>,
    /// By number, each with its queue.
    places: Vec<(Arc<Memory>, u16)>,
    /// Places of its own queue that wait for a request.
    waiting: usize,
    /// Completions that were not looked at yet: the number of a place, or [`WOKEN`], and the result.
    arrived: VecDeque<(u64, i32)>,
    /// Where the event is read to.
    woken: Box<u64>,
}

impl Lane {
    /// Serves until the file system is unmounted. Tells `ready` once the kernel has taken the places, or why not.
    pub fn serve(&self, adapter: &Adapter, ready: &Sender<io::Result<()>>) -> io::Result<()> {
        let mut serving = match self.begin() {
            Ok(serving) => {
                let _ = ready.send(Ok(()));
                serving
            }
            Err(e) => {
                let _ = ready.send(Err(e));
                return Ok(());
            }
        };
        LANE.set(Arc::as_ptr(&serving.answers));
        let served = serving.run(adapter);
        // The kernel takes its time to let go of a ring, and may write until then. The process ends soon.
        let Serving { ring, places, woken, .. } = serving;
        drop(ring);
        std::mem::forget((places, woken));
        served
    }

    fn begin(&self) -> io::Result<Serving<'_>> {
        if let Err(e) = stay_on(self.processor) {
            tracing::info!(processor = self.processor, "a thread can't stay on its processor: {e}");
        }
        let ring = ring()?;
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        let answers = Arc::new(Answers { done: Mutex::default(), heavy: AtomicUsize::new(0), event });
        let woken = Box::new(0);
        let mut serving =
            Serving { lane: self, ring, answers, places: Vec::new(), waiting: 0, arrived: VecDeque::new(), woken };
        serving.listen()?;
        for &queue in &self.queues {
            serving.register(queue)?;
        }
        // What is refused is refused at once; else there may be a request already.
        serving.look();
        match serving.arrived.iter().find(|(_, result)| *result < 0) {
            Some((_, e)) => Err(io::Error::from_raw_os_error(-e)),
            None => Ok(serving),
        }
    }
}

/// What is soon over is tried again by the caller: a signal, or no memory for the moment.
fn passing(submitted: io::Result<usize>) -> io::Result<()> {
    match submitted {
        Ok(_) => Ok(()),
        Err(e) if e.raw_os_error() == Some(libc::EINTR) => Ok(()),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {
            std::thread::sleep(Duration::from_millis(1));
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// A ring for commands with 80 bytes of arguments.
fn ring() -> io::Result<Ring> {
    IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(64)
}

/// Whether this process may have rings at all, before the kernel is told that they will come.
pub fn probe() -> io::Result<()> {
    ring().map(drop).map_err(|e| {
        let hint = "is io_uring forbidden here? (/proc/sys/kernel/io_uring_disabled, or a filter of system calls)";
        io::Error::new(e.kind(), format!("cannot make an io_uring: {e}; {hint}"))
    })
}

impl Serving<'_> {
    fn run(&mut self, adapter: &Adapter) -> io::Result<()> {
        loop {
            self.hand_over()?;
            if self.waiting == 0 && self.arrived.is_empty() && self.answers.heavy.load(Relaxed) < HEAVY {
                self.add_place();
            }
            if self.arrived.is_empty() {
                passing(self.ring.submit_and_wait(1))?;
            } else {
                passing(self.ring.submit())?;
            }
            self.look();
            let Some((number, result)) = self.arrived.pop_front() else { continue };
            if number == WOKEN {
                self.listen()?;
                continue;
            }
            let (memory, queue) = &self.places[number as usize];
            if *queue == self.lane.queues[0] {
                self.waiting -= 1;
            }
            match -result {
                0 => {}
                // Unmounted: the kernel gives every place back so.
                libc::ENOTCONN | libc::ECANCELED | libc::ENODEV | libc::ECONNABORTED => return Ok(()),
                // Nobody waits for the answer any more; the place is lost.
                libc::ENOENT => continue,
                e => return Err(io::Error::from_raw_os_error(e)),
            }
            let place = Place { answers: self.answers.clone(), memory: memory.clone(), number: number as usize };
            let mine = if is_heavy(memory) { self.lane.hands.give(place, self.lane.does_heavy) } else { Some(place) };
            if let Some(place) = mine {
                carry_out(adapter, place);
            }
        }
    }

    fn look(&mut self) {
        self.arrived.extend(self.ring.completion().map(|done| (done.user_data(), done.result())));
    }

    /// Gives the kernel the answers that there are, and with each its place for another request.
    fn hand_over(&mut self) -> io::Result<()> {
        let done = std::mem::take(&mut *self.answers.done.lock());
        for number in done {
            let (memory, queue) = &self.places[number];
            let queue = *queue;
            // SAFETY: the place is ours until the command below is submitted.
            let commit = unsafe { (*memory.headers()).commit_id };
            if queue == self.lane.queues[0] {
                self.waiting += 1;
            }
            let command = command(self.lane.device.raw(), COMMIT_AND_FETCH, queue, commit, number as u64);
            self.push(command)?;
        }
        Ok(())
    }

    /// Another place, where all are in use elsewhere; none if there are very many. Then requests of this processor wait.
    ///
    /// The kernel puts a request that waits into a place that is given back, never into a new one. So requests that found
    /// none would wait on beside it; one more, which the new place serves and gives back, sets them going.
    fn add_place(&mut self) {
        if self.lane.spare.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_err() {
            return;
        }
        match self.register(self.lane.queues[0]) {
            Ok(()) => (self.lane.nudge)(),
            Err(e) => {
                self.lane.spare.fetch_add(1, Relaxed);
                tracing::warn!("no memory for more requests at a time: {e}");
            }
        }
    }

    fn register(&mut self, queue: u16) -> io::Result<()> {
        let (memory, number) = (Arc::new(Memory::new()?), self.places.len());
        let mut command = command(self.lane.device.raw(), REGISTER, queue, 0, number as u64);
        // SAFETY: `struct io_uring_sqe` has `addr` at byte 16 and `len` at byte 24, which the crate sets for other requests
        // only; the entry is as large, and a plain structure.
        unsafe {
            let bytes = (&raw mut command).cast::<u8>();
            bytes.add(16).cast::<u64>().write_unaligned(memory.parts() as u64);
            bytes.add(24).cast::<u32>().write_unaligned(2);
        }
        self.places.push((memory, queue));
        if queue == self.lane.queues[0] {
            self.waiting += 1;
        }
        self.push(command)?;
        passing(self.ring.submit())
    }

    /// Waits for the next event, too.
    fn listen(&mut self) -> io::Result<()> {
        let event = types::Fd(self.answers.event.as_fd().as_raw_fd());
        let read = opcode::Read::new(event, (&raw mut *self.woken).cast(), 8).build().user_data(WOKEN);
        self.push(read.into())
    }

    fn push(&mut self, entry: squeue::Entry128) -> io::Result<()> {
        // SAFETY: what entries point to lives as long as the ring: the places, and `woken`.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            // Full: the kernel takes what there is.
            passing(self.ring.submit())?;
        }
        Ok(())
    }
}

/// `struct fuse_uring_cmd_req` in a command to `/dev/fuse`.
fn command(device: i32, what: u32, queue: u16, commit: u64, number: u64) -> squeue::Entry128 {
    let mut arguments = [0; 80];
    arguments[8..16].copy_from_slice(&commit.to_ne_bytes());
    arguments[16..18].copy_from_slice(&queue.to_ne_bytes());
    opcode::UringCmd80::new(types::Fd(device), what).cmd(arguments).build().user_data(number)
}

/// Lanes for all processors: `each` for one that is there. Queues of those that are not are dealt out among them, because
/// the kernel begins only when each has a place.
pub fn lanes(device: &Arc<Device>, hands: &Arc<Hands>, each: usize, nudge: &Nudge) -> io::Result<Vec<Lane>> {
    let here = rustix::thread::sched_getaffinity(None)?;
    let possible = possible_processors()?;
    let mine: Vec<usize> = (0..possible).filter(|&n| here.is_set(n)).collect();
    // Requests from a processor without a lane of its own would have one place, and wait for each other.
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    if numbers(&online).any(|n| !mine.contains(&n)) {
        let text = "with io_uring kmsfs has to be allowed to run on every processor (taskset, CPUAffinity, cpuset)";
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let spare = Arc::new(AtomicUsize::new(MOST_PLACES));
    let mut lanes: Vec<Lane> = mine
        .iter()
        .flat_map(|&processor| (0..each).map(move |n| (processor, n)))
        .map(|(processor, n)| Lane {
            does_heavy: n == 0,
            device: device.clone(),
            hands: hands.clone(),
            processor,
            queues: vec![processor as u16],
            spare: spare.clone(),
            nudge: nudge.clone(),
        })
        .collect();
    let others = (0..possible).filter(|n| !mine.contains(n));
    let count = lanes.len();
    for (i, queue) in others.enumerate() {
        lanes[i % count].queues.push(queue as u16);
    }
    Ok(lanes)
}

/// Keeps this thread on a processor.
pub fn stay_on(processor: usize) -> rustix::io::Result<()> {
    let mut only = CpuSet::new();
    only.set(processor);
    rustix::thread::sched_setaffinity(None, &only)
}

/// How many processors the kernel has queues for.
fn possible_processors() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    numbers(&text).max().map(|last| last + 1).ok_or_else(|| io::Error::other("the list of processors cannot be read"))
}

/// The numbers of a list like "0-3,8-11".
fn numbers(list: &str) -> impl Iterator<Item = usize> {
    list.trim().split(',').flat_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = first.parse().ok().zip(last.parse().ok());
        range.map(|(first, last): (usize, usize)| first..=last).into_iter().flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        let all = |list| numbers(list).collect::<Vec<_>>();
        assert_eq!(all("0\n"), [0]);
        assert_eq!(all("0-3\n"), [0, 1, 2, 3]);
        assert_eq!(all("0-1,8-9,11"), [0, 1, 8, 9, 11]);
        assert_eq!(numbers("").count(), 0);
    }
}
