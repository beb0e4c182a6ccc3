//! A command through the MCP server, by one client that stays, against the same command over a channel.

use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::figure::{Figure, Goal, Row, Samples};
use super::host::Host;
use super::restore::{hearth_program, run_true};
use super::{Group, Measure, WARM_UP, milliseconds};

const TRUE: Figure = Figure {
    name: "mcp.true",
    unit: "ms",
    baseline: Some(
        "`true` over the channel of a sandbox like it; ours is a call of `exec` at the streams of `hearth mcp`",
    ),
    goal: Some(Goal::RatioAtMost(1.4)),
};

pub(super) const GROUP: Group = Group { figures: &[TRUE], measure: Measure::Guest(|host| Box::pin(measure(host))) };

async fn measure(host: &Host) -> Result<Vec<Row>> {
    let bare = host.create(host.spec()).await?;
    let mut client = Client::start().await?;
    let made = client.call("sandbox_create", &json!({})).await?;
    let exec = json!({ "sandbox": made["id"], "command": ["true"] });
    let mut samples = Samples::default();
    for round in 0..WARM_UP + host.samples(300, 50) {
        let begun = Instant::now();
        let ran = client.call("exec", &exec).await?;
        let whole = begun.elapsed();
        ensure!(ran["exit_code"] == 0, "exec of true: {ran}");
        let begun = Instant::now();
        run_true(&bare).await?;
        if round >= WARM_UP {
            samples.push(milliseconds(whole), milliseconds(begun.elapsed()));
        }
    }
    client.call("sandbox_remove", &json!({ "sandbox": made["id"] })).await?;
    client.stop().await?;
    bare.remove().await;
    Ok(vec![TRUE.row(&samples)])
}

/// A client of `hearth mcp`, as small as it can be.
struct Client {
    server: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    requests: u64,
}

impl Client {
    async fn start() -> Result<Self> {
        let mut command = Command::new(hearth_program()?);
        command.arg("mcp").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut server = command.spawn().context("start hearth mcp")?;
        let input = server.stdin.take().context("its input is piped")?;
        let output = BufReader::new(server.stdout.take().context("its output is piped")?).lines();
        let mut client = Self { server, input, output, requests: 0 };
        let about = json!({ "name": "bench", "version": "1" });
        let begin = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": about });
        client.ask("initialize", &begin).await?;
        client.write(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await?;
        Ok(client)
    }

    /// Calls a tool, and returns its result.
    async fn call(&mut self, tool: &str, arguments: &Value) -> Result<Value> {
        let mut result = self.ask("tools/call", &json!({ "name": tool, "arguments": arguments })).await?;
        ensure!(result["isError"] == false, "{tool}: {result}");
        Ok(result["structuredContent"].take())
    }

    async fn ask(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        self.requests += 1;
        self.write(&json!({ "jsonrpc": "2.0", "id": self.requests, "method": method, "params": parameters })).await?;
        loop {
            let line = self.output.next_line().await?.context("hearth mcp has ended")?;
            let mut answer: Value = serde_json::from_str(&line)?;
            if answer["id"] == self.requests {
                ensure!(answer["error"].is_null(), "{method}: {answer}");
                return Ok(answer["result"].take());
            }
        }
    }

    async fn write(&mut self, message: &Value) -> Result<()> {
        Ok(self.input.write_all(format!("{message}\n").as_bytes()).await?)
    }

    async fn stop(self) -> Result<()> {
        let Self { mut server, input, .. } = self;
        drop(input);
        let status = server.wait().await?;
        ensure!(status.success(), "hearth mcp: {status}");
        Ok(())
    }
}
