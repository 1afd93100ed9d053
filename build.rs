//! Migrations are embedded at compile time; cargo must look at them too.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
