//! The checks of the disk with the local PostgreSQL, and of the directory for temporary files.

use super::local_data_dir;
use crate::back_office::doctor::Check;
use crate::config::Config;
use crate::{server, spool};

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

/// Checks that temporary files can be written, and that the imports that may run at the same time have enough space.
pub fn check_temp_dir(config: &Config) -> Check {
    const NAME: &str = "temp_dir";
    let directory = server::temp_dir(config);
    let path = directory.display();
    if let Err(error) = spool::check_directory(&directory) {
        let message = format!("cannot write temporary files to {path}: {error}");
        return Check::problem(NAME, message, "the server does not start: set temp_dir to another directory");
    }
    let free = rustix::fs::statvfs(&directory).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    let imports = u64::from(config.import_concurrency.get());
    let needed = imports.saturating_mul(u64::try_from(config.max_import_body.get()).unwrap_or(u64::MAX));
    match free {
        Ok(free) if free < needed => Check::warning(
            NAME,
            format!("{} MiB free at {path}, {imports} imports need up to {} MiB", free >> 20, needed >> 20),
            "imports can fail: free space, set temp_dir to another directory, or lower max_import_body",
        ),
        // A file was written: the space is all that is not known.
        _ => Check::ok(NAME, format!("temporary files can be written to {path}")),
    }
}
