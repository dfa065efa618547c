//! The module's devices: /dev/relpoline/{control,sites,stats}.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

/// Where the module's devices are.
const DIRECTORY: &str = "/dev/relpoline";

/// Whether the module is in the kernel.
#[must_use]
pub fn is_loaded() -> bool {
    Path::new("/sys/module/relpoline").exists()
}

/// The module's devices, when they can be had.
#[derive(Debug)]
pub struct Control {
    directory: PathBuf,
}

impl Control {
    /// Finds the module's devices.
    ///
    /// # Errors
    /// The module is not loaded, its devices are not there, or we may not read them.
    pub fn open() -> Result<Control> {
        if !is_loaded() {
            bail!("the module relpoline is not loaded; load it by: relpoline kernel load");
        }
        let directory = PathBuf::from(DIRECTORY);
        match fs::File::open(directory.join("stats")) {
            Ok(_) => Ok(Control { directory }),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                bail!("only root, and whom root lets, may read the module's devices in {DIRECTORY}; try sudo")
            }
            Err(error) => {
                bail!("the module's devices in {DIRECTORY} cannot be read ({error}); is devtmpfs mounted on /dev?")
            }
        }
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.directory.join(file);
        fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
    }

    /// Gives the module a command.
    ///
    /// # Errors
    /// The module does not know the command, or cannot do it now.
    pub fn tell(&self, command: &str) -> Result<()> {
        fs::write(self.directory.join("control"), command).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => {
                anyhow::anyhow!("the module does not know \"{command}\"; `relpoline kernel set` lists the knobs")
            }
            Some(libc::ERANGE) => anyhow::anyhow!("\"{command}\": that value makes no sense for the knob"),
            Some(libc::EBUSY) => anyhow::anyhow!(
                "some sites have a probe (kprobe, perf probe, bpftrace) on them and are put back when it goes"
            ),
            _ => anyhow::Error::new(error).context(format!("the module did not take \"{command}\"")),
        })
    }

    /// Sites that wait to be put back, since somebody else has their instruction: where they are.
    ///
    /// # Errors
    /// The device cannot be read.
    pub fn waiting(&self) -> Result<Vec<String>> {
        Ok(self.sites()?.into_iter().filter(Site::is_waiting).map(|site| site.place).collect())
    }

    /// The knobs, one per line.
    ///
    /// # Errors
    /// The device cannot be read.
    pub fn knobs(&self) -> Result<String> {
        self.read("control")
    }

    /// The module's figures.
    ///
    /// # Errors
    /// The device cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        let lines = self.read("stats")?;
        let pairs = lines.lines().filter_map(|line| line.split_once(' '));
        Ok(Stats(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()))
    }

    /// All sites.
    ///
    /// # Errors
    /// The device cannot be read, or is not what this program knows.
    pub fn sites(&self) -> Result<Vec<Site>> {
        let lines = self.read("sites")?;
        lines.lines().map(|line| Site::parse(line).with_context(|| format!("not the line of a site: {line}"))).collect()
    }
}

/// Figures by name.
#[derive(Debug, Clone, Serialize)]
pub struct Stats(BTreeMap<String, u64>);

impl Stats {
    /// The figure called `name`, 0 where there is none.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

/// A site as the module describes it.
#[derive(Debug, Clone, Serialize)]
pub struct Site {
    /// Its address.
    pub address: u64,
    /// The function it stands in, with offset, size, and module.
    pub place: String,
    /// `call` or `jmp`.
    pub kind: String,
    /// The register that holds the target.
    pub register: String,
    /// What it is now: cold, learning, promoted, retpoline, barred.
    pub phase: String,
    /// Why.
    pub reason: String,
    /// Trees that it was given.
    pub promotions: u64,
    /// Times that it learned again.
    pub relearned: u64,
    /// Calls through a tree while calls were counted.
    pub calls: u64,
    /// Those of them that no target of the tree matched.
    pub misses: u64,
    /// Calls besides, while calls were counted.
    pub plain: u64,
    /// Calls that its counting stub has seen.
    pub cold: u64,
    /// The hottest target of an earlier tree.
    pub before: Option<String>,
    /// The tree's targets.
    pub targets: Vec<Target>,
}

/// A target of a tree.
#[derive(Debug, Clone, Serialize)]
pub struct Target {
    /// Its share of the window that it was learned from.
    pub share: f64,
    /// Its function.
    pub name: String,
}

impl Site {
    /// The name of the function that it stands in, without what compilers append.
    #[must_use]
    pub fn function(&self) -> &str {
        self.place.split(['+', '.', ' ']).next().unwrap_or_default()
    }

    /// Whether a change of it waits for somebody else.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.reason.starts_with("another has its instruction")
    }

    fn parse(line: &str) -> Option<Site> {
        let mut fields = line.split('\t');
        let mut text = || fields.next().map(str::to_owned);
        let address = u64::from_str_radix(&text()?, 16).ok()?;
        let (place, kind, register, phase, reason) = (text()?, text()?, text()?, text()?, text()?);
        let mut number = || text()?.parse().ok();
        let (promotions, relearned) = (number()?, number()?);
        let (calls, misses, plain, cold) = (number()?, number()?, number()?, number()?);
        let before = Some(text()?).filter(|name| name != "-");
        let targets = fields.map(Target::parse).collect::<Option<_>>()?;
        Some(Site {
            address,
            place,
            kind,
            register,
            phase,
            reason,
            promotions,
            relearned,
            calls,
            misses,
            plain,
            cold,
            before,
            targets,
        })
    }
}

impl Target {
    fn parse(field: &str) -> Option<Target> {
        let (share, name) = field.split_once(' ')?;
        Some(Target { share: share.parse::<f64>().ok()? / 65536.0, name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let line = "ffffffff9eb2a275\trcu_do_batch+0x195/0x540\tcall\trdx\tpromoted\tpromoted\t2\t1\t27750\t7878\t0\t545\t\
                    file_free_rcu\t33024 file_free_rcu\t32512 __d_free";
        let site = Site::parse(line).expect("a site");
        assert_eq!((site.function(), site.calls, site.cold), ("rcu_do_batch", 27750, 545));
        assert_eq!(site.before.as_deref(), Some("file_free_rcu"));
        assert_eq!(site.targets[1].name, "__d_free");
        assert!((site.targets[0].share - 0.504).abs() < 0.001);
        assert!(Site::parse("ffffffff9eb2a275\trcu_do_batch").is_none());
    }
}
