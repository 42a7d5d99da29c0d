//! What a run changes on its machine is changed back, also when the run is killed.
//!
//! - Owns: a shell that waits for the end of this process, in a process group of its own.
//! - Takes: commands. Gives: them, run at the end; one that fails stops no other.

use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

pub(super) struct Undo {
    shell: Child,
}

impl Undo {
    pub(super) fn of(commands: &[String]) -> Self {
        // The end of standard input is the end of the run.
        let script = format!("read line; {}", commands.join("; "));
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).stdin(Stdio::piped()).process_group(0);
        let shell = shell.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("sh");
        Self { shell }
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
