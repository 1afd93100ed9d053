//! A full disk: the temporary files of an import cannot be written. A limit of the size of files stands for the full
//! disk: such a write fails in the same way, and no file system of its own is needed.

use std::path::Path;
use std::process::{Command, Stdio};

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::harness::program::Program;
use crate::harness::{FIXTURE_SQL, Reply, hash, postgres, server_without_jobs, with_timeout};

/// The command of a server that survives a write beyond the limit: the signal of that would end it, which a full disk
/// does not send. `limit` is a command of the shell.
async fn command(database: &str, directory: &Path, limit: &str) -> Command {
    let server = Program::command(database, &[("temp_dir", directory.to_str().unwrap())]).await;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("trap '' XFSZ; {limit} exec \"$0\" \"$@\"")]);
    command.arg(server.get_program()).args(server.get_args());
    command.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Limits the size of the files that the server writes; `None`: no limit.
fn limit_files(server: &Program, bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    let limit = Rlimit { current: bytes.or(maximum), maximum };
    prlimit(Some(Pid::from_child(&server.child)), Resource::Fsize, limit).unwrap();
}

/// The files in the directory that the server has open. They have no names.
fn open_files(server: &Program, directory: &Path) -> usize {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", server.child.id())).unwrap();
    let targets = descriptors.filter_map(|descriptor| std::fs::read_link(descriptor.ok()?.path()).ok());
    targets.filter(|target| target.starts_with(directory)).count()
}

async fn import(server: &Program, document: &str) -> Reply {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let uri = format!("http://{}/api/tariff_retail_import?u=admin&hash={}", server.address, hash("", "secret"));
    let request = axum::http::Request::post(uri).header("content-type", "application/x-www-form-urlencoded");
    let request = request.body(Full::from(format!("xml={document}"))).unwrap();
    let reply = async {
        let (head, body) = client.request(request).await.unwrap().into_parts();
        Reply::new(head.status, head.headers, body.collect().await.unwrap().to_bytes()).unwrap()
    };
    with_timeout("the reply to an import", reply).await
}

/// A document of this size with a rate.
fn large_document(bytes: usize) -> String {
    let space = "<x>               </x>\n".repeat(bytes / 23);
    let rate = "<rate_price>1</rate_price><rate_round_by>1</rate_round_by><rate_duration>-1</rate_duration>\
        <rate_type>minute</rate_type><rate_start_time>00:00:00</rate_start_time><rate_end_time>23:59:59</rate_end_time>";
    format!(
        "<tariff>{space}<id>0</id><name>Large</name><destinations><destination>\
         <destination_group_name>Latvia</destination_group_name><rates>{rate}</rates></destination></destinations></tariff>"
    )
}

/// A small document whose reply is large: the type of the destination is repeated for each bad rate.
fn document_with_a_large_reply() -> String {
    let mut random = fastrand::Rng::with_seed(1);
    let group_type: String = (0..500_000).map(|_| random.alphanumeric()).collect();
    let destination = format!(
        "<destination_group_name>Latvia</destination_group_name>\
         <destination_group_type>{group_type}</destination_group_type>{}",
        "<rates/>".repeat(8)
    );
    let large = large_document(0).replace("<name>Large<", "<name>Refused<");
    large.replace("</destinations>", &format!("<destination>{destination}</destination></destinations>"))
}

#[tokio::test]
async fn an_import_without_space_for_its_files_changes_nothing() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let tables = server_without_jobs(&database, &[]).await;
    tables.execute("insert into destinationgroups (name) values ('Latvia')").await;
    let directory = tempfile::tempdir().unwrap();
    let server = Program::start(command(&database, directory.path(), "").await);
    let (document, refused) = (large_document(1_500_000), document_with_a_large_reply());
    let longer = large_document(2_500_000);
    // The first file, a file after its first part, and a list of the reply.
    for (limit, document) in [(0, &document), (1_500_000, &longer), (0, &refused)] {
        limit_files(&server, Some(limit));
        let reply = import(&server, document).await;
        reply.assert_status_error("Service is temporarily unavailable");
        assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (503, Some("1")), "{limit}");
        assert_eq!(open_files(&server, directory.path()), 0, "{limit}");
        let changed = "select (select count(*) from tariffs), (select count(*) from aratedetails), (select count(*) from change_log)";
        tables.assert_rows(changed, &["0|0|0"]).await;
        // Other requests need no file.
        let reply = server.post("card_group_get", "u=admin&id=6&hash=29e93212610eb053970d2892a08c37e371f37fff").await;
        assert!(reply.contains("ten dollars"), "{reply}");
    }
    // There is space again.
    limit_files(&server, None);
    for (document, tariff) in [(&document, "Large"), (&refused, "Refused")] {
        let reply = import(&server, document).await;
        assert_eq!(reply.element_texts("tariff_name"), [tariff], "{}", reply.status);
    }
    assert_eq!(open_files(&server, directory.path()), 0);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    tables.assert_rows("select count(*) from aratedetails", &["2"]).await;
    let log = server.stop();
    assert!(log.contains("temporary file failed"), "{log}");
}

#[tokio::test]
async fn a_full_disk_stops_the_start() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let directory = tempfile::tempdir().unwrap();
    let output = command(&database, directory.path(), "ulimit -f 0;").await.output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    let expected = format!("cannot write temporary files to {}: ", directory.path().display());
    assert!(message.contains(&expected) && message.contains("Set temp_dir to another directory"), "{message}");
    assert_eq!(output.status.code(), Some(1));
}
