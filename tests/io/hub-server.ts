/** A stand-in for the Hugging Face hub, for tests. */
import { createHash } from "node:crypto";

export const COMMIT = "0123456789abcdef0123456789abcdef01234567";

export interface HubServer {
  readonly fetch: typeof fetch;
  /** Paths that were asked for, with `download ` before those that asked for a whole file. */
  readonly asked: string[];
  /** Called for each answer of a file; may replace it. */
  answer: (path: string, bytes: Uint8Array<ArrayBuffer>) => Response;
  /** Changes what is said of the model and of its files, as a hub might that is not one. */
  forge: { commit?: string; oid?: string };
  /** Whether the network is up. */
  online: boolean;
}

/** Serves the files of one model, `org/model`; names that end in .safetensors or .gguf are large files. */
export function hubServer(files: Readonly<Record<string, string | Uint8Array>>): HubServer {
  const contents = new Map(
    Object.entries(files).map(([path, value]) => [
      path,
      Uint8Array.from(typeof value === "string" ? new TextEncoder().encode(value) : value),
    ]),
  );
  const hash = (kind: string, ...parts: (string | Uint8Array)[]) => {
    const h = createHash(kind);
    for (const part of parts) h.update(part);
    return h.digest("hex");
  };
  const tree = [...contents].map(([path, bytes]) => ({
    type: "file",
    path,
    size: bytes.length,
    oid: hash("sha1", `blob ${bytes.length}\0`, bytes),
    ...(/\.(safetensors|gguf)$/.test(path) && {
      oid: hash("sha1", "pointer"),
      lfs: { oid: hash("sha256", bytes), size: bytes.length, pointerSize: 130 },
    }),
  }));
  const json = (value: unknown, status = 200, headers: Record<string, string> = {}) =>
    Response.json(value, { status, headers });
  const server: HubServer = {
    asked: [],
    online: true,
    forge: {},
    answer: (_path, bytes) => new Response(bytes),
    fetch: (url, init) => {
      if (!server.online) return Promise.reject(new TypeError("network is unreachable"));
      const path = decodeURIComponent(new URL(String(url)).pathname);
      const headers = new Headers(init?.headers);
      const range = headers.get("range");
      server.asked.push(path);
      if (path.startsWith("/api/models/org/private/")) {
        const allowed = headers.get("authorization") === "Bearer hf_secret";
        if (!allowed) return Promise.resolve(json({ error: "Invalid username or password." }, 401));
      }
      if (path === `/api/models/org/model/revision/main` || path.endsWith(`/revision/${COMMIT}`)) {
        return Promise.resolve(
          json({ _id: "1", id: "org/model", sha: server.forge.commit ?? COMMIT, lastModified: 0 }),
        );
      }
      if (path.startsWith("/api/models/org/model/tree/")) {
        const { oid } = server.forge;
        return Promise.resolve(json(oid ? tree.map((file) => ({ ...file, oid })) : tree));
      }
      const file = path.match(new RegExp(`^/org/model/resolve/${COMMIT}/(.*)$`))?.[1];
      const bytes = file === undefined ? undefined : contents.get(file);
      if (file === undefined || bytes === undefined) {
        return Promise.resolve(
          json({ error: "Not found" }, 404, { "X-Error-Code": "RepoNotFound" }),
        );
      }
      if (range) {
        return Promise.resolve(
          new Response(bytes.slice(0, 1), {
            status: 206,
            headers: { "content-range": `bytes 0-0/${bytes.length}`, etag: `"${file}"` },
          }),
        );
      }
      server.asked.push(`download ${file}`);
      return Promise.resolve(server.answer(file, bytes));
    },
  };
  return server;
}
