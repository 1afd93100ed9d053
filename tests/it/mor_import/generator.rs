//! Makes databases of MOR of any size, in which invalid data is planted, and tells what the import must find and
//! change.

use std::collections::BTreeMap;

use super::X7_SCHEMA;
use super::kinds::{KINDS, Kind};

/// Ids of planted rows start here.
const FIRST_ID: u64 = 1_000_000;

/// Rows that every database has.
const BASE: &str = "
    alter table users modify username varchar(30);
    alter table cards modify call_count bigint;
    alter table conflines convert to character set utf8mb4;
    insert into users (id, username, password, usertype, first_name, last_name) values
        (0, 'admin', '6c7ca345f63f835cb353ff15bd6c5e052ec08e7a', 'admin', '', ''), (3, 'shop', '', 'reseller', '', '');
    insert into currencies (id, name, last_update) values (1, 'USD', '2014-05-01 10:00:00'), (2, 'EUR', '2014-05-01 10:00:00');
    insert into cardgroups (id, name, description, price, number_length, pin_length, created_at, valid_from, valid_till)
        values (7, 'Ten', '', 10, 10, 8, '2014-01-01 12:00:00', '2014-01-01 00:00:00', '2030-01-01 00:00:00');";

/// Valid rows; `{size}` is the number of cards. Of three cards one is sold. The times cover all hours of a year.
const VALID: &str = "
    insert into cards (id, number, pin, balance, cardgroup_id, sold, first_use)
        select seq, 2000000000 + seq, 20000000 + seq, if(seq % 60 = 0, null, if(seq % 3 = 0, seq / 8, 10)), 7, seq % 3 = 0,
            if(seq % 6 = 0, '2014-01-01 00:30:00' + interval seq hour, null)
        from seq_1_to_{size};
    insert into payments (id, paymenttype, amount, currency, user_id, card, date_added, description)
        select seq, 'Card', seq / 13, if(seq % 2, 'USD', 'EUR'), seq, 1, '2014-01-01 00:30:00' + interval seq hour,
            concat('back\\\\slash ', char(9), ' ', seq)
        from seq_1_to_{size} where seq % 3 = 0
            and '2014-01-01 00:30:00' + interval seq hour not between '2014-03-30 03:00:00' and '2014-03-30 03:59:59'
            and '2014-01-01 00:30:00' + interval seq hour not between '2014-10-26 03:00:00' and '2014-10-26 03:59:59';
    insert into actions (id, date, action, data, target_type, target_id)
        select seq, '2014-05-01 12:00:00' + interval seq second, 'card_created', 'ąčę', 'card', seq from seq_1_to_{size};
    insert into vouchers (id, number, tag, credit_with_vat, currency, active_till)
        select seq, 500000 + seq, '', 5, 'USD', '2030-01-01 00:00:00' from seq_1_to_{size} where seq % 20 = 0;";

/// A schema of another version of MOR.
pub struct Age {
    /// The statements that change the tables of version X7.
    pub change: &'static str,
    /// Kinds that need a table or column which this version does not have are left out.
    pub lacks: &'static [&'static str],
}

impl Age {
    fn has(&self, kind: &Kind) -> bool {
        !self.lacks.iter().any(|word| kind.sql.contains(word))
    }
}

/// Versions X7, X5 and X4.
pub const AGES: [Age; 3] = [
    Age { change: "", lacks: &[] },
    Age {
        change: "
            alter table cards convert to character set latin1, modify hidden bit(8) not null default 0;
            alter table payments convert to character set latin1; alter table actions engine = MyISAM;
            alter table cardgroups drop column callerid_leave, drop column solo_pinless;",
        // A bit is never negative.
        lacks: &[", -1"],
    },
    Age {
        change: "
            alter table cards drop column frozen_balance, drop column callerid, drop column batch_number, engine = MyISAM,
                modify balance double, modify active tinyint unsigned not null default 0;
            alter table users drop column time_zone, modify balance double; alter table users convert to character set latin1;
            drop table acc_rights; drop table vouchers; drop table calls;",
        lacks: &["frozen_balance", "callerid", "acc_rights", "vouchers", "calls"],
    },
];

/// A generated database.
#[derive(Default)]
pub struct Generated {
    pub sql: String,
    /// The lines of the report, sorted, without digests.
    pub findings: Vec<String>,
    /// The decisions that the import needs, as a file.
    pub decisions: String,
    /// The new values of cells, by table, id and column.
    pub cells: BTreeMap<(String, i64, String), String>,
    /// What becomes of rows as a whole, by table and id: `quarantined`, `left out`.
    pub rows: BTreeMap<(String, i64), Vec<String>>,
    /// The number of planted kinds.
    pub kinds: usize,
}

impl Generated {
    /// Makes a database with so many valid cards and each kind of invalid data up to three times.
    pub fn new(seed: u64, size: u32, age: &Age) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut plants: Vec<&Kind> = KINDS
            .iter()
            .filter(|kind| age.has(kind))
            .flat_map(|kind| std::iter::repeat_n(kind, random.usize(1..=3)))
            .collect();
        random.shuffle(&mut plants);
        let mut generated = Self { sql: [X7_SCHEMA, BASE, age.change].concat(), ..Self::default() };
        generated.kinds = KINDS.iter().filter(|kind| age.has(kind)).count();
        for statement in VALID.replace("{size}", &size.to_string()).trim_end_matches(';').split(";\n") {
            if !age.lacks.iter().any(|word| statement.contains(word)) {
                generated.sql += &format!("{statement};\n");
            }
        }
        let mut id = FIRST_ID;
        let mut counted: BTreeMap<String, u32> = BTreeMap::new();
        for kind in plants {
            id += random.u64(1..1000);
            generated.plant(kind, id, &mut counted);
            id += 3;
        }
        for (rule, count) in counted {
            let [rule, table, column] = rule.split('|').collect::<Vec<_>>().try_into().unwrap();
            generated.findings.push(format!("{rule}\t{table}\t*\t{count} cells of the column {column}\t\tdefault"));
        }
        generated.findings.sort();
        generated
    }

    fn plant(&mut self, kind: &Kind, id: u64, counted: &mut BTreeMap<String, u32>) {
        let fill = |text: &str| {
            let mut text = text.to_owned();
            for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
                let id = id + index as u64;
                text = text.replace(&format!("{{{name}}}"), &id.to_string());
                text = text.replace(&format!("{{n{name}}}"), &format!("1{id:09}"));
                text = text.replace(&format!("{{p{name}}}"), &format!("{id:08}"));
            }
            text.replace("{x}", &currency(id)).replace("{y}", &currency(id).to_lowercase())
        };
        self.sql += &format!("{};\n", fill(kind.sql).trim_end_matches(';'));
        for finding in kind.findings {
            let finding = fill(finding);
            match finding.split('|').collect::<Vec<_>>()[..] {
                [_, _, _] => *counted.entry(finding).or_default() += 1,
                _ => self.findings.push(line(&finding)),
            }
        }
        for decision in kind.decisions {
            self.decisions += &format!("{}\n", line(&fill(decision)));
        }
        for change in kind.changes {
            let change = fill(change);
            let [table, id, change] = change.splitn(3, '|').collect::<Vec<_>>().try_into().unwrap();
            let id = id.parse().unwrap();
            match change.split_once('=') {
                Some((column, value)) => {
                    self.cells.insert((table.to_owned(), id, column.to_owned()), value.to_owned());
                }
                None => self.rows.entry((table.to_owned(), id)).or_default().push(change.to_owned()),
            }
        }
    }
}

/// A line of the report: amounts have 15 decimals, unless they begin with `=`.
fn line(finding: &str) -> String {
    let [rule, table, id, value, money, decision] = finding.split('|').collect::<Vec<_>>().try_into().unwrap();
    let money = match money.strip_prefix('=') {
        Some(money) => money.to_owned(),
        None if money.is_empty() => String::new(),
        None => {
            let (whole, fraction) = money.split_once('.').unwrap_or((money, ""));
            format!("{whole}.{fraction:0<15}")
        }
    };
    [rule, table, id, value, &money, decision].join("\t")
}

/// A currency's name, of four letters.
fn currency(id: u64) -> String {
    (0..4).map(|place| char::from(b'A' + u8::try_from(id / 26_u64.pow(place) % 26).unwrap())).collect()
}
