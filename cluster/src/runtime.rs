//! What openraft runs on: tokio, and a random number generator that a simulation can seed.
//!
//! - Owns: per thread, the seed's generator, in builds of the simulation alone.
//! - Takes: futures, durations. Gives: tokio's tasks and timers, unchanged.
//! - Bound: that of tokio. openraft draws a number per election time-out and no other.
//! - Source: openraft 0.9 `AsyncRuntime`, `TokioRuntime`.

use std::{future::Future, time::Duration};

use openraft::{AsyncRuntime, OptionalSend, TokioRuntime};
use rand::{Error, RngCore};

/// `Types::AsyncRuntime`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClusterRuntime;

/// Draws from the operating system's generator, or from the seed of the simulation on this thread.
pub(crate) struct ThreadRng;

#[cfg(feature = "sim")]
mod seed {
    use std::cell::RefCell;

    use rand::{RngCore, SeedableRng, rngs::StdRng};

    thread_local! {
        static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
    }

    /// Makes every later draw on this thread follow from `seed`; `None` gives the thread back.
    pub(crate) fn set(seed: Option<u64>) {
        SEEDED.with(|seeded| *seeded.borrow_mut() = seed.map(StdRng::seed_from_u64));
    }

    /// Returns whether a simulation drives this thread: nothing on it may block then.
    pub(crate) fn is_set() -> bool {
        SEEDED.with(|seeded| seeded.borrow().is_some())
    }

    pub(super) fn fill(bytes: &mut [u8]) -> bool {
        SEEDED.with(|seeded| {
            let mut seeded = seeded.borrow_mut();
            seeded.as_mut().map(|rng| rng.fill_bytes(bytes)).is_some()
        })
    }
}

#[cfg(feature = "sim")]
pub(crate) use seed::{is_set as is_driven, set as set_seed};

impl RngCore for ThreadRng {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        #[cfg(feature = "sim")]
        if seed::fill(bytes) {
            return;
        }
        rand::thread_rng().fill_bytes(bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

/// Runs `work`, which may block, beside the tasks of this runtime; `None` if the runtime ends first. In
/// a simulation, where nothing blocks, it runs at once.
pub(crate) async fn aside<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> Option<R> {
    #[cfg(feature = "sim")]
    if is_driven() {
        return Some(work());
    }
    tokio::task::spawn_blocking(work).await.ok()
}

type Tokio = TokioRuntime;

impl AsyncRuntime for ClusterRuntime {
    type JoinError = <Tokio as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Tokio as AsyncRuntime>::Sleep;
    type Instant = <Tokio as AsyncRuntime>::Instant;
    type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Tokio as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = ThreadRng;
    type OneshotSender<T: OptionalSend> = <Tokio as AsyncRuntime>::OneshotSender<T>;
    type OneshotReceiverError = <Tokio as AsyncRuntime>::OneshotReceiverError;
    type OneshotReceiver<T: OptionalSend> = <Tokio as AsyncRuntime>::OneshotReceiver<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        Tokio::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Tokio::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Tokio::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout_at(deadline, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        error.is_panic()
    }

    fn thread_rng() -> ThreadRng {
        ThreadRng
    }

    fn oneshot<T: OptionalSend>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>) {
        Tokio::oneshot()
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn rng_when_not_seeded_then_numbers_differ() {
        let draw = || ClusterRuntime::thread_rng().gen_range(0..u64::MAX);
        assert_ne!((draw(), draw()), (draw(), draw()));
    }

    #[cfg(feature = "sim")]
    #[test]
    fn rng_when_seeded_then_the_same_numbers_come_again_on_this_thread_alone() {
        let draw = || (0..8).map(|_| ClusterRuntime::thread_rng().next_u32()).collect::<Vec<_>>();
        set_seed(Some(7));
        let first = draw();
        set_seed(Some(7));
        let other = std::thread::spawn(draw).join().unwrap();
        assert_eq!(draw(), first);
        assert_ne!(other, first);
        set_seed(None);
        assert_ne!(draw(), first);
    }
}
