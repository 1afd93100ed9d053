//! The operating system's users.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::fchown;

use super::error::ManagedPostgresError;

/// An operating system user that PostgreSQL runs as.
#[derive(Debug, Clone)]
pub struct OsUser {
    name: String,
    uid: u32,
    gid: u32,
}

impl OsUser {
    /// Returns the user to run PostgreSQL as if this process runs as root: `postgres` or else `nobody`. Returns `None`
    /// if this process runs as another user, which then runs PostgreSQL too.
    ///
    /// Reads `/etc/passwd` only: systems that have these users have them there.
    pub fn find_unprivileged() -> Result<Option<Self>, ManagedPostgresError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = Self::all();
        let find = |name: &str| users.iter().find(|user| user.name == name).cloned();
        find("postgres").or_else(|| find("nobody")).map(Some).ok_or(ManagedPostgresError::NoOsUser)
    }

    /// Reads `/etc/passwd`.
    fn all() -> Vec<Self> {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let parse = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, ..] = fields[..] else { return None };
            Some(Self { name: name.into(), uid: uid.parse().ok()?, gid: gid.parse().ok()? })
        };
        users.lines().filter_map(parse).collect()
    }

    /// Returns the name of the user.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the user id.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Returns the group id.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Makes the user the owner of an open file or directory.
    pub fn chown(&self, file: &File) -> io::Result<()> {
        fchown(file, Some(self.uid), Some(self.gid))
    }
}

/// Returns the name of a user, or its id as text.
pub(super) fn find_user_name(uid: u32) -> String {
    OsUser::all().into_iter().find(|user| user.uid == uid).map_or_else(|| uid.to_string(), |user| user.name)
}
