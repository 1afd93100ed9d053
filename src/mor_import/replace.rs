//! `mortise import --replace`: what must be certain before the rows of a database in use are replaced, and their
//! backup.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use futures_util::TryStreamExt;
use sqlx::PgConnection;

use crate::mor_import::error::ImportError;
use crate::mor_import::target::{self, literal, quote};

/// How the operator wants to replace the rows of a database in use.
#[derive(Debug, Clone)]
pub struct ReplaceOptions {
    /// The number of payments of sales, top-ups and so on that are discarded, as the operator knows it.
    pub discard_sales: Option<i64>,
    /// The file to which the rows are written before.
    pub backup: Option<PathBuf>,
}

/// Returns the number of payments that Mortise has written itself.
///
/// # Errors
///
/// If there are such payments, and the operator has not named their number and a file for the backup.
pub async fn check_sales(target: &mut PgConnection, options: &ReplaceOptions) -> Result<i64, ImportError> {
    let sales: i64 =
        sqlx::query_scalar("select count(*) from payments where kind is not null").fetch_one(target).await?;
    if sales == 0 {
        return Ok(0);
    }
    match (options.discard_sales, &options.backup) {
        (Some(discarded), Some(_)) if discarded == sales => Ok(sales),
        (Some(discarded), _) if discarded != sales => Err(ImportError::refused(format!(
            "the database has {sales} payments of sales, top-ups and refunds, not {discarded}: check them, and name their \
             number with --discard-sales"
        ))),
        _ => Err(ImportError::refused(format!(
            "the database has {sales} payments of sales, top-ups and refunds, which the import would delete: if they are \
             not needed, use --discard-sales {sales} --backup FILE"
        ))),
    }
}

/// Writes the rows that the import replaces to a new file, as SQL that restores them.
///
/// # Errors
///
/// If the file exists or cannot be written.
pub async fn back_up(target: &mut PgConnection, path: &Path) -> Result<(), ImportError> {
    let failed = |error: std::io::Error| ImportError::Backup { path: path.to_owned(), error };
    if path.symlink_metadata().is_ok() {
        return Err(failed(std::io::ErrorKind::AlreadyExists.into()));
    }
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Readable by the operator alone. An incomplete file must not look complete.
    let file = tempfile::Builder::new().prefix(".mortise-").tempfile_in(directory).map_err(failed)?;
    let mut file = BufWriter::new(file);
    let schema: String = sqlx::query_scalar("select quote_ident(current_schema())").fetch_one(&mut *target).await?;
    let mut tables = target::filled_tables(target).await?;
    // A trigger keeps the stock.
    tables.retain(|table| *table != "card_stock");
    write!(
        file,
        "-- The rows that `mortise import --replace` has replaced. To restore them, stop the server and run:\n\
         -- psql --set ON_ERROR_STOP=1 --file THIS_FILE DATABASE\n\
         begin;\nset search_path to {schema};\ntruncate {};\n",
        tables.join(", ")
    )
    .map_err(failed)?;
    for table in tables {
        let columns: String = sqlx::query_scalar(
            "select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute
             where attrelid = format('%I.%I', current_schema(), $1::text)::regclass and attnum > 0 and not attisdropped",
        )
        .bind(table)
        .fetch_one(&mut *target)
        .await?;
        writeln!(file, "copy {} ({columns}) from stdin;", quote(table)).map_err(failed)?;
        let mut rows = target.copy_out_raw(&format!("copy {} ({columns}) to stdout", quote(table))).await?;
        while let Some(bytes) = rows.try_next().await? {
            file.write_all(&bytes).map_err(failed)?;
        }
        drop(rows);
        writeln!(file, "\\.").map_err(failed)?;
        let sequence: Option<String> = sqlx::query_scalar(
            "select pg_get_serial_sequence($1, attname) from pg_attribute
             where attrelid = format('%I.%I', current_schema(), $1::text)::regclass and attname = 'id'",
        )
        .bind(table)
        .fetch_optional(&mut *target)
        .await?
        .flatten();
        if let Some(sequence) = sequence {
            let state = sqlx::AssertSqlSafe(format!("select last_value, is_called from {sequence}"));
            let (last_value, is_called): (i64, bool) = sqlx::query_as(state).fetch_one(&mut *target).await?;
            writeln!(file, "select setval({}, {last_value}, {is_called});", literal(&sequence)).map_err(failed)?;
        }
    }
    writeln!(file, "commit;").map_err(failed)?;
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist_noclobber(path).map_err(|error| failed(error.error))?;
    Ok(())
}
