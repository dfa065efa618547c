//! The programs: where each comes from, how it is built, and what it is made to do.

pub mod cpython;
mod dash;
mod dbench;
mod gawk;
mod haproxy;
mod leveldb;
mod linux;
pub mod lua;
mod memcached;
pub mod nginx;
pub mod perl;
mod php;
pub mod postgresql;
mod quickjs;
pub mod redis;
mod rhai;
pub mod sqlite;
mod xerces;
mod zstd;

use anyhow::Result;

use crate::build::Tree;
pub use crate::source::Source;
use crate::variant::{Toolchain, Variant};
use crate::workload::{Setting, Workload};

/// A program that can be built in variants.
pub trait Program {
    /// Its name on the command line and in results.
    fn name(&self) -> &'static str;
    /// Where it comes from.
    fn source(&self) -> Source;
    /// Debian packages that building or driving it needs.
    fn needs(&self) -> &'static [&'static str] {
        &[]
    }
    /// Counted up whenever `build` changes, so that cached trees are built again.
    fn recipe(&self) -> u32;
    /// Builds in the tree.
    fn build(&self, tree: &Tree) -> Result<()>;
    /// Makes the data its workloads need, once before measuring.
    fn prepare(&self, _setting: &Setting) -> Result<()> {
        Ok(())
    }
    /// Who compiles it.
    fn toolchain(&self) -> Toolchain {
        Toolchain::Gcc
    }
    /// The executable, below the tree, that holds the hot code.
    fn executable(&self) -> &'static str;
    /// Whether it can be built as a variant: some need a training input, or another build system than make.
    fn has(&self, variant: Variant) -> bool {
        !matches!(variant, Variant::Pgo | Variant::Bolt) || self.training().is_some()
    }
    /// What is measured.
    fn workloads(&self) -> Vec<Box<dyn Workload>>;
    /// The input that peers are trained on: another one than is measured.
    fn training(&self) -> Option<Box<dyn Workload>> {
        None
    }
}

/// All of them, in order of importance.
pub fn all() -> Vec<Box<dyn Program>> {
    vec![
        Box::new(cpython::CPython),
        Box::new(nginx::Nginx),
        Box::new(redis::Redis),
        Box::new(sqlite::Sqlite(Toolchain::Gcc)),
        Box::new(postgresql::PostgreSql),
        Box::new(lua::Lua(Toolchain::Gcc)),
        Box::new(perl::Perl),
        Box::new(xerces::Xerces),
        Box::new(lua::Lua(Toolchain::Clang)),
        Box::new(rhai::Rhai),
        Box::new(php::Php),
        Box::new(quickjs::QuickJs),
        Box::new(gawk::Gawk),
        Box::new(sqlite::Sqlite(Toolchain::Clang)),
        Box::new(leveldb::LevelDb),
        Box::new(haproxy::HaProxy),
        Box::new(dash::Dash),
        Box::new(memcached::Memcached),
        Box::new(zstd::Zstd),
        Box::new(dbench::Dbench),
        Box::new(linux::Linux),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_programs_and_of_their_workloads_are_unique() {
        let mut names: Vec<_> = all().iter().map(|program| program.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len());
        for program in all() {
            let mut loads: Vec<_> = program.workloads().iter().map(|load| load.name()).collect();
            loads.sort_unstable();
            loads.dedup();
            assert_eq!(loads.len(), program.workloads().len(), "{}", program.name());
        }
    }
}
