//! No report and no output shows a PIN, a password, a key or the number of a voucher.

use std::os::unix::fs::PermissionsExt;

use super::Import;

/// A zero byte in each column with secrets.
const NUL_BYTES: &str = r"
    update cards set pin = 'pin\0zzz' where id = 101;
    update cards set pin = 'pin\0zzz', hidden = 1 where id = 102;
    update users set password = 'password\0zzz', uniquehash = 'hash\0zzz' where id = 3;
    insert into conflines (id, name, value, value2, owner_id) values (1, 'API_Secret_Key', 'key\0zzz', 'second\0zzz', 0);
    insert into vouchers (id, number, tag, currency, active_till) values (1, 'voucher\0zzz', '', 'USD', '2030-01-01 00:00:00')";

#[tokio::test]
async fn the_report_shows_digests() {
    let import = Import::new(NUL_BYTES).await;
    let findings = import.findings();
    let nul_bytes: Vec<Vec<&str>> =
        findings.iter().filter(|line| line.starts_with("nul_byte")).map(|line| line.split('\t').collect()).collect();
    let named: Vec<String> = nul_bytes.iter().map(|fields| fields[1..3].join(" ")).collect();
    assert_eq!(named, ["cards 101", "cards 102", "conflines 1", "conflines 1", "users 3", "users 3", "vouchers 1"]);
    for fields in &nul_bytes {
        assert!(fields[3].len() == 12 && fields[3].bytes().all(|byte| byte.is_ascii_hexdigit()), "{fields:?}");
    }
    // Equal values have equal digests.
    assert_eq!(nul_bytes[0][3], nul_bytes[1][3]);
    assert_ne!(nul_bytes[2][3], nul_bytes[3][3]);
    let report = import.file("report.tsv");
    assert_eq!(std::fs::metadata(&report).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!findings.join(" ").contains("zzz"), "{findings:?}");
    // Also a file that others could read.
    std::fs::set_permissions(&report, std::fs::Permissions::from_mode(0o644)).unwrap();
    import.findings();
    assert_eq!(std::fs::metadata(&report).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn differences_show_digests() {
    let import = Import::new(NUL_BYTES).await;
    import.import_ok(&[]);
    import
        .mor
        .execute(
            "update cards set pin = 'wxyz', name = 'new' where id = 103;
             update users set password = 'wxyz', uniquehash = 'wxyz' where id = 0;
             update conflines set value = 'wxyz', value2 = 'wxyz'; update vouchers set number = 'wxyz'",
        )
        .await;
    let output = import.run(&["reconcile", &import.mor.url()]);
    assert_eq!(output.code, 1, "{output:?}");
    for cell in ["cards 103 pin", "users 0 password", "conflines 1 value", "conflines 1 value2", "vouchers 1 number"] {
        let line = output.stdout.lines().find(|line| line.contains(&format!("{cell}: "))).unwrap_or_default();
        assert!(line.len() > 40 && line.contains(" in MOR, "), "{cell}: {output:?}");
    }
    assert!(output.stdout.contains("users 0 uniquehash: ") && output.stdout.contains("NULL in Mortise"), "{output:?}");
    assert!(!output.stdout.contains("wxyz") && !output.stdout.contains("zzz"), "{output:?}");
    assert!(output.stdout.contains("cards 103 name: \"new\" in MOR, \"\" in Mortise"), "{output:?}");
}

#[tokio::test]
async fn a_number_that_is_too_large_is_listed_with_its_money() {
    let import = Import::new(
        "alter table cards modify call_count bigint; update cards set call_count = 5000000000 where id = 101;
         alter table payments modify completed int;
         insert into payments (id, amount, currency, completed) values (1, 7.5, 'USD', 100000)",
    )
    .await;
    let findings = import.findings();
    for line in [
        "out_of_range\tcards\t101\t5000000000\t10.000000000000000\tundecided",
        "out_of_range\tpayments\t1\t100000\t7.500000000000000\tundecided",
    ] {
        assert!(findings.iter().any(|found| found == line), "{line}: {findings:?}");
    }
}
