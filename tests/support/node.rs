//! A real server process: start, stop, `kill -9`, start again on the same data.
//!
//! - Owns: the process, its data folder (removed at the end), its log (kept if the test fails).
//! - Takes: settings as `--set` takes them. Gives: addresses, memory, log, exit status.
//! - Bound: a watchdog ends the process when the test process ends, however that happens.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use super::{
    broker::{Broker, foreign},
    wait::{let_pass, now, wait_until_within},
};

const START_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// A process, or the place where one was.
pub(crate) struct Node {
    folder: Option<TempDir>,
    settings: Vec<(String, String)>,
    wrapper: Vec<String>,
    program: PathBuf,
    environment: Vec<(String, String)>,
    running: Option<Running>,
}

struct Running {
    child: Child,
    watchdog: Child,
    broker: Broker,
}

impl Node {
    /// Starts a node with default settings, on free ports.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a node with these settings (`section.key`, value).
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_under(&[], settings)
    }

    /// Starts a node as the argument of another program (a tracer).
    pub(crate) fn start_under(wrapper: &[&str], settings: &[(&str, &str)]) -> Self {
        Self::start_prepared(wrapper, |_| (), settings)
    }

    /// The same, on a data folder that `prepare` makes.
    pub(crate) fn start_prepared(
        wrapper: &[&str],
        prepare: impl FnOnce(&Path),
        settings: &[(&str, &str)],
    ) -> Self {
        let mut node = Self::new(settings);
        node.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
        prepare(&node.data());
        node.launch();
        node
    }

    /// Starts a node on a data folder that `prepare` makes.
    pub(crate) fn start_on(prepare: impl FnOnce(&Path), settings: &[(&str, &str)]) -> Self {
        Self::start_prepared(&[], prepare, settings)
    }

    /// Prepares a node that is not started.
    pub(crate) fn stopped_on(prepare: impl FnOnce(&Path), settings: &[(String, String)]) -> Self {
        let settings: Vec<_> =
            settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let node = Self::new(&settings);
        prepare(&node.data());
        node
    }

    /// From its next start on.
    pub(crate) fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The node that conformance tests share: it outlives any test, so its folder is the watchdog's.
    pub(super) fn shared() -> Self {
        let mut node = Self::new(&[]);
        node.launch();
        node
    }

    /// Starts a node that must say `why` it does not serve; it may end by itself or go on trying.
    pub(crate) fn never_starts(settings: &[(String, String)], why: &str) {
        let settings: Vec<_> =
            settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        Self::new(&settings).never_serves(why);
    }

    /// The same, on the data that is there.
    pub(crate) fn never_serves(&self, why: &str) {
        self.begin().says(why);
    }

    /// Prepares a node that is not started.
    pub(crate) fn stopped(settings: &[(String, String)]) -> Self {
        Self::stopped_on(|_| (), settings)
    }

    /// Starts the process without waiting until it serves.
    pub(crate) fn begin(&self) -> Starting<'_> {
        assert!(self.running.is_none(), "the node runs already");
        let _ = fs::remove_file(self.data().join("listeners.json"));
        let said_before = self.log().len();
        let (child, watchdog) = self.spawn(self.own_command());
        Starting { node: self, child, watchdog: Some(watchdog), said_before }
    }

    fn new(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("node-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .unwrap();
        let settings =
            settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let program = own_program();
        Self {
            folder: Some(folder),
            settings,
            wrapper: Vec::new(),
            environment: Vec::new(),
            program,
            running: None,
        }
    }

    /// The next launch is of another release.
    pub(crate) fn set_program(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.as_ref().unwrap().path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.folder().join("server.log")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub(crate) fn broker(&self) -> Broker {
        self.running.as_ref().expect("the node runs").broker
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.as_ref().expect("the node runs").child.id()
    }

    /// Starts the process on the data that is there.
    pub(crate) fn launch(&mut self) {
        assert!(self.running.is_none(), "the node runs already");
        self.running = Some(if foreign().as_deref() == Some("mosquitto") {
            self.launch_mosquitto()
        } else {
            self.launch_own()
        });
    }

    fn spawn(&self, mut command: Command) -> (Child, Child) {
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let watchdog = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "read line; test \"$line\" || {{ kill -9 {}; rm -rf '{}'; }}",
                child.id(),
                self.folder().display()
            ))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        (child, watchdog)
    }

    fn launch_own(&self) -> Running {
        let ready = self.data().join("listeners.json");
        let _ = fs::remove_file(&ready);
        let (mut child, watchdog) = self.spawn(self.own_command());
        let start = now();
        let listeners = loop {
            if let Some(found) = read_listeners(&ready) {
                break found;
            }
            let ended = child.try_wait().unwrap();
            let late = start.elapsed() > START_PATIENCE;
            assert!(ended.is_none() && !late, "no start ({ended:?}):\n{}", self.log());
            let_pass(Duration::from_millis(10));
        };
        Running { child, watchdog, broker: Broker::new(listeners.0, Some(listeners.1), true) }
    }

    fn own_command(&self) -> Command {
        let mut words = self.wrapper.clone();
        words.push(self.program.display().to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("serve").arg("--data").arg(self.data());
        command.args(["--set", "listeners.mqtt.address=127.0.0.1:0"]);
        command.args(["--set", "listeners.http.address=127.0.0.1:0"]);
        // Two, whatever the machine has: what goes between workers is tested everywhere.
        command.args(["--set", "workers.threads=2"]);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        for (key, value) in &self.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        command
    }

    fn launch_mosquitto(&self) -> Running {
        let (mqtt, http) = (free_port(), free_port());
        let config = self.folder().join("mosquitto.conf");
        let folder = self.folder().display();
        fs::write(
            &config,
            format!(
                "user root\nallow_anonymous true\npersistence true\npersistence_location {folder}/\n\
                 max_queued_messages 100000\nlistener {} 127.0.0.1\nlistener {} 127.0.0.1\n\
                 protocol websockets\n",
                mqtt.port(),
                http.port()
            ),
        )
        .unwrap();
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(&config);
        let (child, watchdog) = self.spawn(command);
        wait_until_within(START_PATIENCE, "mosquitto listens", || {
            std::net::TcpStream::connect(mqtt).is_ok()
        });
        Running { child, watchdog, broker: Broker::new(mqtt, Some(http), false) }
    }

    /// `kill -9`, at once.
    pub(crate) fn kill(&mut self) {
        let mut running = self.running.take().expect("the node runs");
        if !self.wrapper.is_empty() {
            signal_children(running.child.id(), "KILL");
        }
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        dismiss(running.watchdog);
    }

    /// SIGTERM; returns the exit status, which must come in time.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let running = self.running.take().expect("the node runs");
        // A tracer has the node as its child; other wrappers become the node.
        if self.wrapper.is_empty() || !signal_children(running.child.id(), "TERM") {
            signal(running.child.id(), "TERM");
        }
        self.see_end(running, STOP_PATIENCE, "SIGTERM did not end the node")
    }

    /// Waits until the process ends by itself.
    pub(crate) fn wait_end(&mut self, patience: Duration) -> ExitStatus {
        let running = self.running.take().expect("the node runs");
        self.see_end(running, patience, "the node did not end by itself")
    }

    fn see_end(&self, mut running: Running, patience: Duration, failed: &str) -> ExitStatus {
        let start = now();
        let status = loop {
            if let Some(status) = running.child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > patience {
                let _ = running.child.kill();
                panic!("{failed} in {patience:?}:\n{}", self.log());
            }
            let_pass(Duration::from_millis(10));
        };
        dismiss(running.watchdog);
        status
    }

    /// `kill -9` and a start on the same data.
    pub(crate) fn crash(&mut self) {
        self.kill();
        self.launch();
    }

    /// The process was started and not ended since.
    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The process still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        let running = self.running.as_mut().expect("the node was started");
        running.child.try_wait().unwrap().is_none()
    }
}

/// A process that does not serve yet; `kill -9` where it is dropped.
pub(crate) struct Starting<'a> {
    node: &'a Node,
    child: Child,
    watchdog: Option<Child>,
    said_before: usize,
}

impl Starting<'_> {
    /// Waits for a word in its log; it must not serve before it says so.
    pub(crate) fn says(&mut self, word: &str) {
        let ready = self.node.data().join("listeners.json");
        wait_until_within(START_PATIENCE, &format!("the node says {word:?}"), || {
            let serves = read_listeners(&ready).is_some();
            let said = self.node.log()[self.said_before..].contains(word);
            assert!(said || !serves, "it serves");
            said
        });
    }

    /// Sends a signal; returns the exit status, which must come in time.
    pub(crate) fn end(mut self, name: &str) -> ExitStatus {
        signal(self.child.id(), name);
        let start = now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            let log = || self.node.log();
            assert!(start.elapsed() < STOP_PATIENCE, "SIG{name} did not end it:\n{}", log());
            let_pass(Duration::from_millis(10));
        }
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(watchdog) = self.watchdog.take() {
            dismiss(watchdog);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.kill();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- the last lines of the node's log:\n{}", tail.join("\n"));
            if let Some(folder) = self.folder.take() {
                eprintln!("--- its folder is kept: {}", folder.keep().display());
            }
        }
    }
}

/// The program that these tests are of.
pub(crate) fn own_program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_hongqiao"))
}

/// Tells the watchdog that there is nothing left to watch.
fn dismiss(mut watchdog: Child) {
    use std::io::Write as _;
    if let Some(mut stdin) = watchdog.stdin.take() {
        let _ = stdin.write_all(b"done\n");
    }
    let _ = watchdog.wait();
}

pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(status.unwrap().success(), "kill -{name} {pid}");
}

/// Tells whether there was one.
fn signal_children(pid: u32, name: &str) -> bool {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(path).unwrap_or_default();
    for child in children.split_whitespace() {
        signal(child.parse().unwrap(), name);
    }
    !children.trim().is_empty()
}

/// (MQTT, HTTP) once the node has written where it listens.
fn read_listeners(path: &Path) -> Option<(SocketAddr, SocketAddr)> {
    let text = fs::read_to_string(path).ok()?;
    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
    let addr = |name: &str| json.get(name)?.get(0)?.as_str()?.parse().ok();
    Some((addr("mqtt")?, addr("http")?))
}

/// A port that was free a moment ago; only for programs that cannot take port 0.
pub(crate) fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
