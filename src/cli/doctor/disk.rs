//! Room for the local PostgreSQL.

use super::{Check, local_data_dir};
use crate::config::Config;

const GIBIBYTE: u64 = 1 << 30;

/// How much the disk with the data directory has left. That of a database of yours can't be seen from here.
pub fn check_free_space(config: &Config) -> Option<Check> {
    let data = local_data_dir(config)?;
    // Where nothing stands yet, it is the directory above that will hold it.
    let there = data.ancestors().find(|path| path.exists())?;
    let advice = "a full disk stops every sale: make room, or move data_dir to a larger one";
    Some(match rustix::fs::statvfs(there) {
        Err(error) => Check::warning("disk", format!("can't look at {}: {error}", there.display()), "look with df"),
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let percent = disk.f_bavail.saturating_mul(100) / disk.f_blocks.max(1);
            let says = format!("{} MB free at {} ({percent} %)", free >> 20, data.display());
            if free < GIBIBYTE / 4 {
                Check::problem("disk", says, advice)
            } else if free < 2 * GIBIBYTE || percent < 5 {
                Check::warning("disk", says, advice)
            } else {
                Check::ok("disk", says)
            }
        }
    })
}
