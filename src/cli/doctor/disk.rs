//! The check of the disk with the local PostgreSQL.

use super::{Check, local_data_dir};
use crate::config::Config;

const GIBIBYTE: u64 = 1 << 30;

/// Checks the free space on the disk with the data directory. `None` with `database_url`: that disk is not accessible.
pub fn check_free_space(config: &Config) -> Option<Check> {
    let data = local_data_dir(config)?;
    // If the directory does not exist yet, it will be on the disk of its parent.
    let path = data.ancestors().find(|path| path.exists())?;
    let advice = "a full disk stops all sales: free space, or move data_dir to a larger disk";
    Some(match rustix::fs::statvfs(path) {
        Err(error) => {
            let message = format!("cannot read the free space at {}: {error}", path.display());
            Check::warning("disk", message, "run `df`")
        }
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let percent = disk.f_bavail.saturating_mul(100) / disk.f_blocks.max(1);
            let message = format!("{} MiB free at {} ({percent} %)", free >> 20, data.display());
            if free < GIBIBYTE / 4 {
                Check::problem("disk", message, advice)
            } else if free < 2 * GIBIBYTE || percent < 5 {
                Check::warning("disk", message, advice)
            } else {
                Check::ok("disk", message)
            }
        }
    })
}
