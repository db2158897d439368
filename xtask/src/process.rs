//! Running commands: loudly (output passes through), or quietly (shown only on failure).

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Cargo, which is not told that another cargo started us: to the build scripts that ask for its `CARGO_MANIFEST_DIR`,
/// `CARGO_PKG_NAME` and so on, everything would have changed since it was called directly, and be built again.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new("cargo");
    for (name, _) in std::env::vars_os() {
        let of_the_package = name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_"));
        if of_the_package {
            command.env_remove(name);
        }
    }
    command
}

/// The command as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| {
        let word = word.to_string_lossy();
        if word.is_empty() || word.contains(' ') { format!("'{word}'") } else { word.into_owned() }
    }));
    words.join(" ")
}

/// Runs `$@` in a process group that ends when the other end of our standard input does: with us, however we end.
const BOUND: &str = r#"
exec 3<&0
( read -r _ <&3; kill -s TERM -- -$$ ) >/dev/null 2>&1 &
watcher=$!
"$@" 3<&- </dev/null
status=$?
kill "$watcher" 2>/dev/null
exit "$status"
"#;

/// Starts it so that neither it nor what it starts outlives this process.
fn spawn(command: &Command, stdout: Stdio) -> Result<Child> {
    let mut shell = Command::new("sh");
    shell.args(["-c", BOUND, "bound"]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(key, value),
            None => shell.env_remove(key),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        shell.current_dir(directory);
    }
    shell.process_group(0).stdin(Stdio::piped()).stdout(stdout);
    shell.spawn().with_context(|| format!("cannot start `{}`", line(command)))
}

/// Runs it with its output passed through; fails when it fails.
pub(crate) fn run(command: &Command) -> Result<()> {
    let mut child = spawn(command, Stdio::inherit())?;
    // Waiting would close the pipe, which means the end.
    let pipe = child.stdin.take();
    let status = child.wait().with_context(|| format!("cannot wait for `{}`", line(command)))?;
    drop(pipe);
    if !status.success() {
        bail!("`{}` failed ({status})", line(command));
    }
    Ok(())
}

/// Runs it silently and answers its standard output; on failure the error holds all that it said.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{line}`"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let said = [stdout.trim_end(), stderr.trim_end()].join("\n");
        bail!("`{line}` failed ({}):\n{}", output.status, said.trim());
    }
    Ok(stdout)
}

/// Runs it with its output passed through, and shows each line of its standard output to `look`. Answers whether it
/// succeeded.
pub(crate) fn watch(command: &Command, mut look: impl FnMut(&str)) -> Result<bool> {
    let line = line(command);
    let mut child = spawn(command, Stdio::piped())?;
    // Waiting would close the pipe, which means the end.
    let pipe = child.stdin.take();
    let stdout = child.stdout.take().context("the child has no standard output")?;
    for text in BufReader::new(stdout).split(b'\n') {
        let text = text.with_context(|| format!("cannot read what `{line}` says"))?;
        let text = String::from_utf8_lossy(&text);
        println!("{text}");
        look(&text);
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{line}`"))?;
    drop(pipe);
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn every_line_is_seen_and_the_exit_status_is_the_answer() -> Result<()> {
        let mut seen = Vec::new();
        assert!(watch(&shell("echo one; echo 'two words'"), |line| seen.push(line.to_owned()))?);
        assert_eq!(seen, ["one", "two words"]);
        assert!(!watch(&shell("exit 3"), |_| ())?);
        Ok(())
    }

    #[test]
    fn a_failure_names_the_command_and_its_status() {
        run(&shell("exit 0")).unwrap();
        let error = run(&shell("exit 3")).unwrap_err().to_string();
        assert!(error.contains("`sh -c 'exit 3'`") && error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn what_a_command_started_ends_with_the_pipe() -> Result<()> {
        // The grandchild holds the standard output open: reading to its end means that all have ended.
        let mut child = spawn(&shell("sleep 600 & echo started; wait"), Stdio::piped())?;
        let mut stdout = BufReader::new(child.stdout.take().context("no output")?);
        let mut text = String::new();
        stdout.read_line(&mut text)?;
        assert_eq!(text, "started\n");
        drop(child.stdin.take());
        stdout.read_line(&mut text)?;
        assert_eq!(text, "started\n");
        assert!(!child.wait()?.success());
        Ok(())
    }
}
