//! Requests and casts between two nodes over loopback, beside a socket that only copies bytes.
//!
//! - Shape: rows of (how many at a time, bytes of each). A request comes back with its body; a cast does
//!   not. Both nodes and both ends of the baseline share one runtime of two threads.
//! - Baseline: one TCP connection; the same bytes at a time, written and read back whole, without frames,
//!   ids, checksums or tasks.
//! - Gives: rates and ratios on stdout; median of `ROUNDS`, each of which runs both in turn.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, missing_docs)]

use std::{future::Future, time::Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use hongqiao_cluster::{LinkError, transport::door::EchoPair};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const ROUNDS: usize = 7;

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("link between nodes against a bare socket, median of {ROUNDS}");
    runtime.block_on(async {
        let pair = EchoPair::start().await.unwrap();
        for (at_a_time, bytes, total) in
            [(1, 256, 5_000), (64, 256, 100_000), (1_024, 256, 200_000), (16, 65_536, 8_000)]
        {
            let subject = || requests(&pair, at_a_time, bytes, total);
            let baseline = || raw(at_a_time, bytes, total, true);
            row("requests", at_a_time, bytes, total, subject, baseline).await;
        }
        for (bytes, total) in [(256, 400_000), (65_536, 8_000)] {
            let subject = || casts(&pair, bytes, total);
            let baseline = || raw(64, bytes, total, false);
            row("casts", 64, bytes, total, subject, baseline).await;
        }
    });
}

async fn row<S: Future<Output = ()>, B: Future<Output = ()>>(
    what: &str,
    at_a_time: usize,
    bytes: usize,
    total: usize,
    subject: impl Fn() -> S,
    baseline: impl Fn() -> B,
) {
    let (mut subjects, mut baselines) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (subject, baseline) = (timed(subject()).await, timed(baseline()).await);
        // The first round warms up.
        if round > 0 {
            subjects.push(subject);
            baselines.push(baseline);
        }
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let (subject, baseline) = (median(&mut subjects), median(&mut baselines));
    let count = f64::from(u32::try_from(total).unwrap());
    let mebibytes = count * f64::from(u32::try_from(bytes).unwrap()) / f64::from(1 << 20);
    println!(
        "{what:<9} {at_a_time:>5} x {bytes:>6} B  {:>10.0}/s {:>8.1} MiB/s  bare {:>10.0}/s  ratio {:.2}",
        count / subject,
        mebibytes / subject,
        count / baseline,
        baseline / subject
    );
}

async fn timed(work: impl Future<Output = ()>) -> f64 {
    let started = Instant::now();
    work.await;
    started.elapsed().as_secs_f64()
}

async fn requests(pair: &EchoPair, at_a_time: usize, bytes: usize, total: usize) {
    let body = Bytes::from(vec![7; bytes]);
    let mut waiting = FuturesUnordered::new();
    for sent in 0..total {
        waiting.push(pair.ask(body.clone()));
        if sent + 1 >= at_a_time {
            waiting.next().await.unwrap().unwrap();
        }
    }
    while let Some(answer) = waiting.next().await {
        answer.unwrap();
    }
}

async fn casts(pair: &EchoPair, bytes: usize, total: usize) {
    let body = Bytes::from(vec![7; bytes]);
    let until = pair.served() + total as u64;
    for _ in 0..total {
        while let Err(why) = pair.tell(body.clone()) {
            assert_eq!(why, LinkError::Full);
            tokio::task::yield_now().await;
        }
    }
    while pair.served() < until {
        tokio::task::yield_now().await;
    }
}

/// Sends `total` times `bytes` over a bare socket, `at_a_time` of them at once, and waits until they are
/// back, or have been read.
async fn raw(at_a_time: usize, bytes: usize, total: usize, comes_back: bool) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut out = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut echo, _) = listener.accept().await.unwrap();
    out.set_nodelay(true).unwrap();
    echo.set_nodelay(true).unwrap();
    let all = bytes * total;
    let other_side = tokio::spawn(async move {
        let mut buffer = vec![0; 256 << 10];
        let mut read = 0;
        while read < all {
            let more = echo.read(&mut buffer).await.unwrap();
            read += more;
            if comes_back {
                echo.write_all(&buffer[..more]).await.unwrap();
            }
        }
    });
    let block = vec![7; bytes * at_a_time];
    let mut back = vec![0; bytes * at_a_time];
    let mut left = all;
    while left > 0 {
        let step = left.min(block.len());
        left -= step;
        if comes_back {
            let (mut reading, mut writing) = out.split();
            let (sent, received) = tokio::join!(
                writing.write_all(&block[..step]),
                reading.read_exact(&mut back[..step])
            );
            sent.unwrap();
            received.unwrap();
        } else {
            out.write_all(&block[..step]).await.unwrap();
        }
    }
    other_side.await.unwrap();
}
