//! The routes of the console: who may request them. A route that is missing here fails a test, and an entry without a
//! route fails it too. A new route is one line of [`TABLE`].

use mortise::console::access::Role;

use super::PASSWORD;

/// A route, with its rule.
pub struct Entry {
    pub path: &'static str,
    /// The letters of the roles: admin, reseller, support, only reading. `None`: also without a session.
    pub roles: Option<&'static str>,
    pub kind: Kind,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Page,
    Form,
    /// A form with a file.
    Upload,
    /// A form that asks for a code or the password again; with fields that are valid.
    Confirmed(&'static [(&'static str, &'static str)]),
}

const fn page(path: &'static str, roles: &'static str) -> Entry {
    Entry { path, roles: Some(roles), kind: Kind::Page }
}

const fn form(path: &'static str, roles: &'static str) -> Entry {
    Entry { path, roles: Some(roles), kind: Kind::Form }
}

const fn confirmed(path: &'static str, roles: &'static str, fields: &'static [(&'static str, &'static str)]) -> Entry {
    Entry { path, roles: Some(roles), kind: Kind::Confirmed(fields) }
}

const fn upload(path: &'static str, roles: &'static str) -> Entry {
    Entry { path, roles: Some(roles), kind: Kind::Upload }
}

const fn public(path: &'static str, kind: Kind) -> Entry {
    Entry { path, roles: None, kind }
}

/// The routes, in the order of their paths.
pub const TABLE: &[Entry] = &[
    page("/", "arso"),
    page("/account", "arso"),
    form("/account/password", "arso"),
    confirmed("/account/recovery-codes", "arso", &[]),
    page("/account/second-factor", "arso"),
    form("/account/second-factor", "arso"),
    confirmed("/account/second-factor/new", "arso", &[]),
    form("/account/sessions/{id}/end", "arso"),
    public("/assets/{file}", Kind::Page),
    page("/batches", "aro"),
    form("/batches/assign", "ar"),
    page("/batches/batch", "aro"),
    form("/batches/block", "ar"),
    page("/batches/export", "aro"),
    confirmed("/batches/export", "ar", &[("group", "6"), ("format", "csv")]),
    page("/batches/generate", "aro"),
    form("/batches/generate", "ar"),
    page("/batches/import", "aro"),
    upload("/batches/import", "ar"),
    form("/batches/release", "ar"),
    form("/batches/unblock", "ar"),
    page("/cards/{id}", "arso"),
    form("/cards/{id}/block", "ars"),
    confirmed("/cards/{id}/pin", "ars", &[]),
    confirmed("/cards/{id}/reissue", "ars", &[("reason", "a test")]),
    form("/cards/{id}/send", "ars"),
    form("/cards/{id}/top-up", "ars"),
    form("/cards/{id}/unblock", "ars"),
    confirmed("/cards/{id}/void", "ars", &[("refund", "none"), ("reason", "a test")]),
    page("/changes", "ao"),
    confirmed("/changes/export", "a", &[]),
    page("/dashboard", "arso"),
    public("/demo", Kind::Page),
    public("/demo", Kind::Form),
    page("/groups", "aro"),
    page("/groups/new", "aro"),
    form("/groups/new", "ar"),
    page("/groups/{id}", "aro"),
    page("/groups/{id}/edit", "aro"),
    form("/groups/{id}/edit", "ar"),
    form("/groups/{id}/hide", "ar"),
    form("/groups/{id}/restore", "ar"),
    public("/login", Kind::Page),
    public("/login", Kind::Form),
    form("/logout", "arso"),
    page("/mail", "aso"),
    form("/mail/retry", "as"),
    form("/mail/test", "as"),
    form("/mail/{id}/correct", "as"),
    form("/mail/{id}/retry", "as"),
    page("/sales", "arso"),
    confirmed("/sales/export", "ars", &[]),
    page("/sales/reconciliation", "arso"),
    upload("/sales/reconciliation", "ars"),
    page("/sales/statement", "arso"),
    page("/sales/tax", "arso"),
    page("/search", "arso"),
    form("/search", "arso"),
    page("/settings", "a"),
    form("/settings/{name}", "a"),
    page("/users", "a"),
    form("/users", "a"),
    page("/users/hash", "a"),
    form("/users/hash", "a"),
    confirmed("/users/resellers", "a", &[("name", "a new shop")]),
    page("/users/{id}", "a"),
    form("/users/{id}/block", "a"),
    confirmed("/users/{id}/key", "a", &[]),
    confirmed("/users/{id}/key/end", "a", &[]),
    confirmed("/users/{id}/password", "a", &[("password", PASSWORD), ("repeated", PASSWORD)]),
    form("/users/{id}/rights", "a"),
    form("/users/{id}/unblock", "a"),
];

/// The letters of the roles.
pub const ROLES: [(char, Role); 4] =
    [('a', Role::Admin), ('r', Role::Reseller), ('s', Role::Support), ('o', Role::ReadOnly)];

impl Entry {
    pub fn method(&self) -> &'static str {
        if self.kind == Kind::Page { "GET" } else { "POST" }
    }

    /// Whether the role may request the route.
    pub fn allows(&self, role: Role) -> bool {
        let letter = ROLES.iter().find(|(_, known)| *known == role).unwrap().0;
        self.roles.is_none_or(|roles| roles.contains(letter))
    }

    /// A path of the route, with ids of rows in `fixtures.sql`: a card and a card group that the role may see, and the
    /// reseller.
    pub fn sample_path(&self, role: Role) -> String {
        let id = match (self.path.split('/').nth(1).unwrap(), role) {
            ("cards" | "groups", Role::Reseller) => "12",
            ("groups", _) => "6",
            ("users", _) => "3",
            _ => "1",
        };
        let segments = self.path.split('/').map(|segment| if segment.starts_with('{') { id } else { segment });
        let query = match self.path {
            "/batches/batch" => "?group=6&number=none",
            "/batches/export" if self.kind == Kind::Page => "?group=6",
            _ => "",
        };
        segments.collect::<Vec<_>>().join("/") + query
    }

    /// Valid fields of a form.
    pub fn fields(&self) -> Vec<(&'static str, &'static str)> {
        match self.kind {
            Kind::Confirmed(fields) => fields.to_vec(),
            _ => Vec::new(),
        }
    }
}
