//! `relpoline explain`: everything there is to say of a site.
//!
//! What became of it and why is in its process' statistics; the code that its calls run through now (the
//! caller, the gate, the tree) is read from the process' memory, which is not stopped for that. It may change
//! while it is read: gates and links change by whole words and single bytes, and trees never, so each part
//! shown is a valid one.
//!
//! | module | what it does |
//! |---|---|
//! | [`find`] | which sites are meant |
//! | [`code`] | the code, disassembled |
//! | [`text`] | the explanation for people |

pub mod code;
pub mod find;
pub mod text;

use std::io;
use std::process::ExitCode;

use clap::Args;
use relpoline_stats::{ObjectRecord, SiteRecord};
use serde::Serialize;

use crate::live::{self, Engine};
use crate::report::schema::Site;
use crate::report::{digest, now, why};
use crate::shown::{self, Shown};
use crate::symbols::{Mapped, Symbols};
use code::Part;

/// Examples shown with `--help`.
pub const AFTER_HELP: &str = "\
Examples:
  relpoline explain 4711 ngx_http_core_run_phases      all sites in a function
  relpoline explain 4711 ngx_http_core_run_phases+0x2a
  relpoline explain 4711 0x55d0c3a41f10                a site, a gate, a tree
  relpoline explain 4711 luaV_execute --json

The code is shown where you may read the process' memory: as root, or with kernel.yama.ptrace_scope 0.
Exit status: 0, or 1 when there is no such site.";

/// `relpoline explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The process.
    pub pid: u32,
    /// Address of a site or of anything that belongs to one, or name of a function, with or without
    /// `+0xOFFSET`.
    #[arg(value_name = "ADDRESS|SYMBOL")]
    pub place: String,
    /// Print it as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Version of the JSON's schema; within it fields are only added.
const SCHEMA: u32 = 1;

/// What there is to say.
#[derive(Debug, Serialize)]
pub struct Explanation {
    schema: u32,
    /// The process.
    pub pid: u32,
    /// Seconds since the engine was started.
    pub seconds: f64,
    /// The sites that are meant.
    pub sites: Vec<Explained>,
}

/// A site.
#[derive(Debug, Serialize)]
pub struct Explained {
    /// What the report says of it.
    pub site: Site,
    /// What its reason means.
    pub meaning: &'static str,
    /// The code that its calls run through.
    pub code: Vec<Part>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_code: Option<String>,
}

/// A process whose sites are explained.
pub struct Subject {
    engine: Engine,
    symbols: Symbols,
    mapped: Vec<Mapped>,
    records: Vec<(u32, SiteRecord)>,
}

impl Subject {
    fn new(engine: Engine) -> Self {
        let mut symbols = engine.symbols();
        let objects: Vec<ObjectRecord> = digest::objects(&engine.stats());
        let mapped = objects.iter().map(|record| symbols.map(record)).collect();
        let records = now::sites(&engine);
        Self { engine, symbols, mapped, records }
    }

    /// The name of an address, in the process' own code or in ours.
    fn name(&self, address: u64) -> Option<Shown> {
        if address != 0 && self.records.iter().any(|(_, record)| record.thunk == address) {
            return Some(String::from("our copy of the thunk").into());
        }
        let in_engine = || {
            let owner = self.records.iter().find_map(|(_, record)| Some((record, find::part(record, address)?)));
            let (record, part) = owner?;
            let site = self.symbols.name(&self.mapped, record.address);
            let site = site.unwrap_or_else(|| format!("{:#x}", record.address).into());
            Some(format!("{part} of {site}").into())
        };
        self.symbols.name(&self.mapped, address).or_else(in_engine)
    }
}

/// Does what the command line asks.
///
/// # Errors
/// When there is no such engine or site.
pub fn run(arguments: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let mut subject = Subject::new(live::one(arguments.pid)?);
    let chosen = find::sites(&subject, &arguments.place)?;
    let report = now::report_on(&subject.engine, &chosen, &mut subject.symbols);
    let explanation = Explanation {
        schema: SCHEMA,
        pid: report.pid,
        seconds: report.seconds,
        sites: report.sites.iter().map(|site| explain(&subject, site, &chosen)).collect(),
    };
    let pid = arguments.pid;
    anyhow::ensure!(subject.engine.process.is_there(), "process {pid} has just ended");
    let mut out = io::stdout().lock();
    if arguments.json {
        shown::write_json(&mut out, &explanation)?;
    } else {
        shown::write(&mut out, &text::render(&explanation))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(subject: &Subject, site: &Site, records: &[(u32, SiteRecord)]) -> Explained {
    let record =
        records.iter().map(|(_, record)| record).find(|record| site.address == format!("{:#x}", record.address));
    let (code, no_code) = match record.map(|record| code::parts(subject, record)) {
        Some(Ok(parts)) => (parts, None),
        Some(Err(error)) => (Vec::new(), Some(live::memory::why(&error))),
        None => (Vec::new(), None),
    };
    Explained { site: site.clone(), meaning: why::means(&site.reason), code, no_code }
}
