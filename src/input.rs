//! Input from outside, bounded in bytes and in time: files that the operator names, standard input, and the output of
//! other programs. Also the check of secrets and names for characters that readers do not see.

use std::fs::File;
use std::io::{self, BufRead, ErrorKind, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use crate::dialect::TEXT_LEN_MAX;

/// In bytes; larger than any settings file, template or list of certificates.
const FILE_LEN_MAX: u64 = 1024 * 1024;
/// A file that is a pipe, or is on a file server, may never end.
const FILE_TIMEOUT: Duration = Duration::from_secs(10);
/// In bytes; longer than any password or key.
const LINE_LEN_MAX: u64 = 4096;
/// The bytes that are kept of the output of a program, for each of its two streams.
const PROGRAM_OUTPUT_LEN_MAX: u64 = 64 * 1024;
/// Characters of a user name in MOR. No user has a longer name.
pub const USER_NAME_LEN_MAX: usize = 255;

/// Reads a text file that the operator names.
///
/// # Errors
///
/// If the file is larger than 1 MiB, is not UTF-8, or has no end within 10 seconds.
pub fn read_file(path: &Path) -> io::Result<String> {
    let (sender, receiver) = mpsc::channel();
    let path = path.to_owned();
    // A blocked read of a pipe has no timeout of its own.
    std::thread::spawn(move || sender.send(File::open(path).and_then(|file| read_text(file, FILE_LEN_MAX))));
    let timeout_error = || io::Error::new(ErrorKind::TimedOut, "its end did not come within 10 seconds");
    receiver.recv_timeout(FILE_TIMEOUT).unwrap_or_else(|_| Err(timeout_error()))
}

/// Reads text up to its end.
///
/// # Errors
///
/// If the text has more than `len_max` bytes or is not UTF-8.
pub fn read_text(source: impl Read, len_max: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    source.take(len_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > len_max {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it is larger than {len_max} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8"))
}

/// Reads the first line of standard input, without its end.
///
/// # Errors
///
/// If the line has more than 4096 bytes or is not UTF-8.
pub fn read_stdin_line() -> io::Result<String> {
    let mut line = Vec::new();
    io::stdin().lock().take(LINE_LEN_MAX + 1).read_until(b'\n', &mut line)?;
    let line = read_text(line.as_slice(), LINE_LEN_MAX)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Runs a program to its end, and returns the first 64 KiB of each output stream. Kills the program after `timeout`.
pub async fn run_program(command: Command, timeout: Duration) -> io::Result<Output> {
    let mut command = tokio::process::Command::from(command);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let run = async {
        let (stdout, stderr, status) = tokio::try_join!(read_output(stdout), read_output(stderr), child.wait())?;
        Ok(Output { status, stdout, stderr })
    };
    let timeout_error =
        |_| io::Error::new(ErrorKind::TimedOut, format!("no end within {}", humantime::format_duration(timeout)));
    tokio::time::timeout(timeout, run).await.map_err(timeout_error)?
}

/// Reads to the end, so that the program does not fail, and returns the start.
async fn read_output(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut output = Vec::new();
    if let Some(stream) = stream {
        let mut start = stream.take(PROGRAM_OUTPUT_LEN_MAX);
        start.read_to_end(&mut output).await?;
        tokio::io::copy(&mut start.into_inner(), &mut tokio::io::sink()).await?;
    }
    Ok(output)
}

/// A character that readers do not see in a text. Clients that copy the text lose it, or it came by a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the invisible character U+{:04X} at position {position}", u32::from(*char))]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct InvisibleChar {
    pub char: char,
    /// Counts characters, from 1 on.
    pub position: usize,
}

/// Returns the first invisible character of a secret or a name: a control or format character (such as a byte order
/// mark or a zero-width space), any white space except a space between other characters, or a blank letter or mark.
pub fn find_invisible(text: &str) -> Option<InvisibleChar> {
    let count = text.chars().count();
    let numbered = text.chars().zip(1..);
    numbered.map(|(char, position)| InvisibleChar { char, position }).find(|InvisibleChar { char, position }| {
        let is_outer_space = *char == ' ' && (*position == 1 || *position == count);
        is_outer_space || is_invisible(*char)
    })
}

fn is_invisible(char: char) -> bool {
    match char.general_category() {
        GeneralCategory::Control
        | GeneralCategory::Format
        | GeneralCategory::LineSeparator
        | GeneralCategory::ParagraphSeparator => true,
        GeneralCategory::SpaceSeparator => char != ' ',
        // Unicode's categories call these letters, marks and symbols: the grapheme joiner, Hangul fillers, Khmer
        // inherent vowels, variation selectors, the blank Braille pattern.
        _ => matches!(char,
            '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2800}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0100}'..='\u{e01ef}'),
    }
}

/// Reads the name of a new API user, or of a new account of the console.
///
/// # Errors
///
/// If it is empty, too long, or has invisible characters.
pub fn parse_user_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().count() > USER_NAME_LEN_MAX {
        return Err("a name has 1 to 255 characters".to_owned());
    }
    parse_name(text)
}

/// Reads a text of at most 255 characters without invisible ones, as MOR's columns store it.
///
/// # Errors
///
/// If it is too long, or has invisible characters.
pub fn parse_column_text(text: &str) -> Result<String, String> {
    if text.chars().count() > TEXT_LEN_MAX {
        return Err(format!("it has more than {TEXT_LEN_MAX} characters"));
    }
    parse_name(text)
}

/// Reads an argument of a command: a name without invisible characters.
pub fn parse_name(text: &str) -> Result<String, String> {
    find_invisible(text).map_or_else(|| Ok(text.to_owned()), |invisible| Err(format!("it has {invisible}")))
}
