// Debian's nginx, with the configuration that docs/endpoint.md shows.

import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eventually, freePort, repository } from "./support.mjs";

/** The configuration of the guide, in which addresses and files are replaced. */
function guide(changes) {
  const text = readFileSync(join(repository, "docs/endpoint.md"), "utf8");
  let block = text.split("```nginx\n")[1]?.split("```")[0];
  for (const [from, to] of changes) {
    if (!block?.includes(from)) throw new Error(`there is no ${from} in the configuration of docs/endpoint.md`);
    block = block.replaceAll(from, to);
  }
  return block;
}

const listens = (port) => new Promise((resolve) => {
  const socket = createConnection(port, "127.0.0.1", () => resolve(true));
  socket.once("connect", () => socket.destroy());
  socket.once("error", () => resolve(false));
});

/** A proxy before the endpoint at `url`, with a certificate that nobody has signed. */
export async function nginx(url) {
  const folder = mkdtempSync(join(tmpdir(), "console-nginx-"));
  const port = await freePort();
  const [certificate, key] = [join(folder, "site.crt"), join(folder, "site.key")];
  execFileSync("openssl", ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=gpu.example.org",
    "-keyout", key, "-out", certificate], { stdio: "ignore" });
  const server = guide([
    ["listen 443 ssl;", `listen 127.0.0.1:${port} ssl;`],
    ["/etc/ssl/certs/gpu.example.org.crt", certificate],
    ["/etc/ssl/private/gpu.example.org.key", key],
    ["http://127.0.0.1:8000/", `${url}/`],
  ]);
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((name) => `${name}_temp_path ${folder}/${name};`);
  writeFileSync(join(folder, "nginx.conf"), `daemon off;
pid ${folder}/pid;
error_log stderr warn;
events {}
http {
access_log off;
${temporary.join("\n")}
${server}
}
`);
  const child = spawn("/usr/sbin/nginx", ["-e", "stderr", "-p", folder, "-c", join(folder, "nginx.conf")], { stdio: ["ignore", "inherit", "inherit"] });
  let end;
  child.once("error", (error) => (end = error));
  child.once("exit", (code) => (end ??= new Error(`nginx ended with ${code}`)));
  await eventually("nginx", () => {
    if (end) throw end;
    return listens(port);
  });
  const stop = () => new Promise((resolve) => {
    child.once("exit", () => {
      rmSync(folder, { recursive: true, force: true });
      resolve();
    });
    child.kill("SIGQUIT");
  });
  return { port, stop };
}
