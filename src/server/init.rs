//! Process 1 of a container. The operating system makes it the parent of every process whose own parent has exited,
//! such as the processes of a PostgreSQL that was killed. Unless it waits for them, they stay as zombies.

use std::io;
use std::pin::pin;
use std::process::{Command, ExitCode};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};

use super::shutdown_signal;

/// Runs this program again as a child process, passes the signal to stop on, and waits for all child processes. Returns
/// the exit code of the program.
pub fn run() -> io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut child_exits = signal(SignalKind::child())?;
        let mut stop = pin!(shutdown_signal()?);
        let mut is_stopping = false;
        let program = Command::new(std::env::current_exe()?).args(std::env::args_os().skip(1)).spawn()?;
        let program = Pid::from_child(&program);
        loop {
            tokio::select! {
                _ = child_exits.recv() => {
                    while let Some((exited, status)) = wait(WaitOptions::NOHANG)? {
                        if exited == program {
                            return Ok(exit_code(status));
                        }
                    }
                }
                () = &mut stop, if !is_stopping => {
                    is_stopping = true;
                    kill_process(program, Signal::TERM)?;
                }
            }
        }
    })
}

/// Returns the exit code; 128 and the signal's number for a program that a signal ended, as shells do.
fn exit_code(status: WaitStatus) -> ExitCode {
    let code = status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}
