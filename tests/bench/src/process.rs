//! What the kernel knows of a process: memory and processor time (Linux, proc(5)).

use std::{collections::HashMap, fs};

use anyhow::{Context as _, Result};

/// Processor time in /proc is counted in hundredths of a second on every Linux (USER_HZ).
const TICKS: f64 = 100.0;

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident now.
    pub now: u64,
    /// The most that was resident.
    pub peak: u64,
}

/// The memory of a running process.
pub fn memory(pid: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} has ended"))?;
    let bytes = |name| kilobytes(&status, name).map(|kilobytes| kilobytes * 1024);
    let memory = bytes("VmRSS:").zip(bytes("VmHWM:")).map(|(now, peak)| Memory { now, peak });
    memory.with_context(|| format!("process {pid} is ending: the kernel tells no memory of it"))
}

fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Processor time of a running process, its own and that of children it has waited for, in seconds.
pub fn processor(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} has ended"))?;
    let stat = parse_stat(&stat).with_context(|| format!("/proc/{pid}/stat cannot be read"))?;
    Ok(stat.ticks as f64 / TICKS)
}

/// Processor time of a process and all that descend from it, in seconds.
pub fn processor_of_all(pid: u32) -> Result<f64> {
    let mut all: HashMap<u32, Stat> = HashMap::new();
    for entry in fs::read_dir("/proc").context("there is no /proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has just ended is in the time of its parent.
        if let Some(stat) = fs::read_to_string(entry.path().join("stat")).ok().and_then(|s| parse_stat(&s)) {
            all.insert(id, stat);
        }
    }
    let descends = |mut id: u32| {
        while id != pid {
            match all.get(&id) {
                Some(stat) if stat.parent != 0 => id = stat.parent,
                _ => return false,
            }
        }
        true
    };
    let ticks: u64 = all.iter().filter(|(id, _)| descends(**id)).map(|(_, stat)| stat.ticks).sum();
    Ok(ticks as f64 / TICKS)
}

/// The parent of a running process.
pub fn parent(pid: u32) -> Result<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} has ended"))?;
    Ok(parse_stat(&stat).with_context(|| format!("/proc/{pid}/stat cannot be read"))?.parent)
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    ticks: u64,
}

/// The fields behind the command's name, which may hold anything: state, parent, …; utime, stime, cutime and cstime are
/// the 12th to 15th of them.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum::<Option<u64>>()?;
    Some(Stat { parent: fields.get(1)?.parse().ok()?, ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_command_is_called() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 1 0";
        assert_eq!(parse_stat(text), Some(Stat { parent: 7, ticks: 100 }));
        assert_eq!(parse_stat("42 (x) S 7"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn memory_is_read_from_the_status() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(kilobytes(status, "VmRSS:"), Some(1024));
        assert_eq!(kilobytes(status, "VmHWM:"), Some(2048));
        assert_eq!(kilobytes(status, "VmSwap:"), None);
    }

    #[test]
    fn this_process_has_memory_and_a_parent() {
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.now > 0 && memory.peak >= memory.now);
        let parent = parent(std::process::id()).unwrap();
        assert_eq!(parent, std::os::unix::process::parent_id());
        assert!(processor_of_all(parent).unwrap() >= processor(std::process::id()).unwrap());
    }
}
