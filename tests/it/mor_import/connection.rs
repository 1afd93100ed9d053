//! What the command says when MOR's database cannot be read.

use mortise::mor_import::source::{Source, SourceAddress, SourceError, SourceOptions, Tls};
use tokio::net::TcpListener;

use super::{BASICS, Import, X7_SCHEMA};
use crate::harness::mariadb::{self, Mor, USER};
use crate::operator::commands::{command, run_command};

#[tokio::test]
async fn a_password_in_the_url_is_refused() {
    let import = Import::with("").await;
    let url = import.mor.url().replace(USER, "importer:secret");
    let output = import.run(&["import", &url]);
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("leave it out") && !output.stderr.contains("secret"), "{output:?}");
    for url in ["mysql://host/database", "postgres://a@b/c", "mysql://a@b", "mysql://a@b:port/c", "mysql://a@b/c?x=y"] {
        let output = import.run(&["import", url]);
        assert!(output.code == 2 && output.stderr.contains("expected mysql://"), "{url}: {output:?}");
    }
}

#[tokio::test]
async fn each_failure_says_what_to_do() {
    let import = Import::new("").await;
    import
        .mor
        .execute(
            "install soname 'auth_ed25519';
             create or replace user modern@localhost identified via ed25519 using password('x');
             create or replace user elsewhere@'10.0.0.1' identified by 'x'",
        )
        .await;
    let failure = |url: &str, options: &[&str], password: &str| {
        let mut command = command(&[&["import", url, "--time-zone", "UTC"], options].concat());
        command.env("DATABASE_URL", &import.url);
        let output = run_command(command, password);
        assert_ne!(output.code, 0, "{output:?}");
        output.stderr
    };
    let url = import.mor.url();
    let no_database = url.replace(&import.mor.database, "nosuch");
    let no_server = url.replace(&import.mor.port.to_string(), "1");
    for (error, expected) in [
        (failure(&url, &[], "wrong\n"), "refuses the user \"importer\" with this password"),
        (failure(&import.mor.url_of("elsewhere"), &[], "x\n"), "refuses the user \"elsewhere\""),
        (failure(&no_database, &[], mariadb::PASSWORD), "cannot use the database \"nosuch\""),
        (failure(&no_server, &[], mariadb::PASSWORD), "cannot reach MySQL at 127.0.0.1:1"),
        (failure(&url, &["--tls", "required"], mariadb::PASSWORD), "MySQL does not offer TLS"),
        (failure(&import.mor.url_of("modern"), &[], "x\n"), "client_ed25519, which Mortise does not support"),
    ] {
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(!error.contains(mariadb::PASSWORD), "{error}");
    }
}

/// An account that must use TLS is refused without it as if its password were wrong.
#[tokio::test]
async fn an_account_that_requires_tls() {
    let schema = [X7_SCHEMA, BASICS].concat();
    let import = Import::of(Mor::with_tls(&schema).await).await;
    let url = import.mor.url_of(&import.mor.create_tls_account().await);
    let run = |options: &[&str]| import.run(&[&["import", &url, "--time-zone", "UTC"], options].concat());
    let certificate = import.mor.certificate();
    let (certificate, other) = (certificate.to_str().unwrap(), import.file("other.pem"));
    std::fs::write(&other, rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap().cert.pem()).unwrap();
    for (options, expected) in [
        (&["--tls", "off"][..], "if the account requires TLS, use --tls required"),
        (&["--tls-ca", other.to_str().unwrap()], "the TLS connection to MySQL failed: check --tls-ca"),
    ] {
        let output = run(options);
        assert!(output.code == 1 && output.stderr.contains(expected), "{options:?}: {output:?}");
    }
    for options in
        [&["--dry-run"][..], &["--dry-run", "--tls", "required"], &["--tls", "required", "--tls-ca", certificate]]
    {
        let output = run(options);
        assert_eq!(output.code, 0, "{options:?}: {output:?}");
    }
    let server = import.server().await;
    server.assert_rows("select count(*) from cards", &["5"]).await;
    server.close().await;

    // A server that does not offer TLS.
    let import = Import::with(&schema).await;
    let url = import.mor.url_of(&import.mor.create_tls_account().await);
    for (options, expected) in [
        (&[][..], "if the account requires TLS, use --tls required"),
        (&["--tls", "required"], "MySQL does not offer TLS: enable it there"),
    ] {
        let output = import.run(&[&["import", &url, "--time-zone", "UTC"], options].concat());
        assert!(output.code == 1 && output.stderr.contains(expected), "{options:?}: {output:?}");
    }
}

#[tokio::test]
async fn the_password_can_be_in_a_file() {
    let import = Import::new("").await;
    let file = import.file("password");
    std::fs::write(&file, format!("{}\nsecond line\n", mariadb::PASSWORD)).unwrap();
    let mut command = command(&["import", &import.mor.url(), "--time-zone", "UTC", "--dry-run", "--password-file"]);
    command.arg(&file).env("DATABASE_URL", &import.url);
    let output = run_command(command, "");
    assert_eq!(output.code, 0, "{output:?}");
}

#[tokio::test]
async fn other_databases_and_newer_schemas_are_refused() {
    let schema = [X7_SCHEMA, BASICS].concat();
    for (change, expected) in [
        ("drop table cards", "has no table cards"),
        ("alter table cards drop column number, add column number point", "cards.number has the type point"),
        ("alter table vouchers change id voucher_id int not null auto_increment", "vouchers has no column id"),
    ] {
        let import = Import::with(&format!("{schema}{change}")).await;
        let output = import.import(&[]);
        assert!(output.code == 1 && output.stderr.contains(expected), "{change}: {output:?}");
        import.server().await.assert_rows("select count(*) from users", &["0"]).await;
    }
}

#[tokio::test]
async fn the_time_zone_is_required_unless_mysql_has_a_name_for_it() {
    let import = Import::new("").await;
    let output = import.run(&["import", &import.mor.url()]);
    assert!(output.code == 1 && output.stderr.contains("name it with --time-zone"), "{output:?}");
    let output = import.run(&["import", &import.mor.url(), "--time-zone", "CEST"]);
    assert!(output.code == 1 && output.stderr.contains("\"CEST\" is no time zone"), "{output:?}");
}

#[tokio::test]
async fn a_role_that_may_not_create_a_schema_is_told_what_to_do() {
    let import = Import::new("").await;
    let (database, role) = (&import.database, format!("limited_{}", import.database));
    import
        .execute(&format!(
            "revoke create on database {database} from public; create role {role} login;
             grant select on all tables in schema public to {role}"
        ))
        .await;
    let url = import.url.replace("postgres://postgres@", &format!("postgres://{role}@"));
    let mut command = command(&["import", &import.mor.url(), "--time-zone", "UTC", "--dry-run"]);
    command.env("DATABASE_URL", &url);
    let output = run_command(command, &format!("{}\n", mariadb::PASSWORD));
    assert!(output.code == 1 && output.stderr.contains("run `grant create on database` for it"), "{output:?}");
}

/// A server that accepts the connection and stays silent, and one that stops to answer.
#[tokio::test]
async fn a_silent_server_does_not_hold_an_import() {
    let mor = Mor::new("").await;
    let options = |port| SourceOptions {
        address: SourceAddress {
            user: USER.to_owned(),
            host: "127.0.0.1".to_owned(),
            port,
            database: mor.database.clone(),
        },
        password: mariadb::PASSWORD.trim().into(),
        tls: Tls::Off,
        tls_ca: None,
    };
    let mut source = Source::connect(&options(mor.port)).await.unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // From here on, the time passes when nothing else happens.
    tokio::time::pause();
    let error = Source::connect(&options(silent.local_addr().unwrap().port())).await.unwrap_err();
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error}");
    let error = source.rows("select sleep(600)").await.unwrap_err();
    assert!(matches!(error, SourceError::Lost(_)), "{error}");
}
