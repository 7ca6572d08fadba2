import { assertEquals, assertRejects } from "@std/assert";
import { join } from "node:path";
import { FileError } from "../../lib/errors.ts";
import { downloadFromHub } from "../../lib/io/hub.ts";
import { codeOf, inFolder, namesIn } from "./folder.ts";
import { COMMIT, hubServer } from "./hub-server.ts";

const FILES = {
  "config.json": `{"model_type": "llama"}`,
  "model.safetensors": Uint8Array.from({ length: 3000 }, (_, i) => i % 251),
  "tokenizer.json": "{}",
  "README.md": "not needed",
  "onnx/model.onnx": "not needed",
};

const downloads = (asked: readonly string[]) =>
  asked.filter((a) => a.startsWith("download ")).map((a) => a.slice(9));

Deno.test("what a model needs is downloaded once, into the layout of Python's cache", () =>
  inFolder(async (cacheDir) => {
    const server = hubServer(FILES);
    const progress: string[] = [];
    const first = await downloadFromHub("org/model", {
      cacheDir,
      fetch: server.fetch,
      onProgress: ({ file, loaded, total }) => {
        if (loaded === total) progress.push(file);
      },
    });
    const wanted = ["config.json", "model.safetensors", "tokenizer.json"];
    assertEquals([first.files, first.revision, first.fromCache], [wanted, COMMIT, false]);
    assertEquals([downloads(server.asked), progress], [wanted, wanted]);
    const repository = join(cacheDir, "models--org--model");
    assertEquals(first.folder, join(repository, "snapshots", COMMIT));
    assertEquals(namesIn(first.folder), wanted);
    assertEquals(namesIn(join(repository, "blobs")).length, 3);
    assertEquals(await Deno.readTextFile(join(repository, "refs", "main")), COMMIT);
    const link = await Deno.readLink(join(first.folder, "config.json"));
    assertEquals(link.startsWith(join("..", "..", "blobs")), true, link);
    assertEquals(
      await Deno.readFile(join(first.folder, "model.safetensors")),
      FILES["model.safetensors"],
    );

    server.asked.length = 0;
    await downloadFromHub("org/model", { cacheDir, fetch: server.fetch, revision: COMMIT });
    assertEquals(downloads(server.asked), []);
  }));

Deno.test("files can be named, in folders and by pattern", () =>
  inFolder(async (cacheDir) => {
    const server = hubServer(FILES);
    const { folder, files } = await downloadFromHub("org/model", {
      cacheDir,
      fetch: server.fetch,
      files: ["onnx/*.onnx"],
      optionalFiles: ["*.md", "none.txt"],
    });
    assertEquals(files, ["README.md", "onnx/model.onnx"]);
    assertEquals(await Deno.readTextFile(join(folder, "onnx", "model.onnx")), "not needed");
    const missing = () =>
      downloadFromHub("org/model", { cacheDir, fetch: server.fetch, files: ["x.gguf"] });
    const error = await assertRejects(missing, FileError, "x.gguf");
    assertEquals(error.code, "HUB_FILE_MISSING");
    assertEquals(error.message.includes("model.safetensors"), true, "it says what there is");
  }));

Deno.test("without a network the cache serves, and says so", () =>
  inFolder(async (cacheDir) => {
    const server = hubServer(FILES);
    const options = { cacheDir, fetch: server.fetch };
    server.online = false;
    const error = await assertRejects(() => downloadFromHub("org/model", options), FileError);
    assertEquals(error.code, "HUB_UNREACHABLE");
    server.online = true;
    const { folder } = await downloadFromHub("org/model", options);
    server.online = false;
    const cached = await downloadFromHub("org/model", options);
    assertEquals([cached.folder, cached.fromCache, cached.revision], [folder, true, COMMIT]);
    assertEquals(cached.files.toSorted(), ["config.json", "model.safetensors", "tokenizer.json"]);
    server.asked.length = 0;
    const offline = await downloadFromHub("org/model", { ...options, offline: true });
    assertEquals([offline.folder, server.asked], [folder, []]);
    assertEquals(
      await codeOf(downloadFromHub("org/model", { ...options, offline: true, files: ["x"] })),
      "HUB_FILE_MISSING",
    );
  }));

Deno.test("what does not arrive as announced is not kept", () =>
  inFolder(async (cacheDir) => {
    const server = hubServer(FILES);
    const options = { cacheDir, fetch: server.fetch };
    const blobs = join(cacheDir, "models--org--model", "blobs");
    for (const file of ["config.json", "model.safetensors"]) {
      server.answer = (path, bytes) => new Response(path === file ? bytes.slice(0, -2) : bytes);
      const short = await assertRejects(
        () => downloadFromHub("org/model", options),
        FileError,
        file,
      );
      assertEquals(short.code, "HUB_DAMAGED");
      server.answer = (path, bytes) =>
        new Response(path === file ? bytes.with(7, bytes[7] ^ 1) : bytes);
      const changed = await assertRejects(
        () => downloadFromHub("org/model", options),
        FileError,
        "hash",
      );
      assertEquals(changed.code, "HUB_DAMAGED");
      server.answer = (_path, bytes) => new Response(bytes);
      await downloadFromHub("org/model", { ...options, files: [file], optionalFiles: [] });
    }
    server.answer = () =>
      new Response(
        new ReadableStream({
          pull: (controller) => controller.error(new TypeError("connection reset")),
        }),
      );
    const broken = await assertRejects(() => downloadFromHub("org/model", options), FileError);
    assertEquals(broken.code, "HUB_UNREACHABLE");
    assertEquals(namesIn(blobs).filter((name) => name.includes("tmp")), []);
    assertEquals(namesIn(blobs).length, 2);
  }));

Deno.test("unknown, private and unsafe repositories are errors of their own", () =>
  inFolder(async (cacheDir) => {
    const server = hubServer({ "../../evil.json": "{}" });
    const options = { cacheDir, fetch: server.fetch };
    assertEquals(await codeOf(downloadFromHub("org/none", options)), "HUB_NOT_FOUND");
    assertEquals(await codeOf(downloadFromHub("org/private", options)), "HUB_UNAUTHORIZED");
    const unsafe = downloadFromHub("org/model", { ...options, files: ["../../evil.json"] });
    await assertRejects(() => unsafe, FileError, "unsafe");
    assertEquals(namesIn(cacheDir), []);
    const token = { ...options, token: "hf_secret" };
    assertEquals(await codeOf(downloadFromHub("org/private", token)), "HUB_NOT_FOUND");
  }));

Deno.test("what a forged answer says never becomes a path outside of the cache", () =>
  inFolder(async (folder) => {
    const cacheDir = join(folder, "cache");
    await Deno.mkdir(join(folder, "secret"));
    await Deno.writeTextFile(join(folder, "secret", "config.json"), "a local file");
    const out = "../../../secret";
    for (const forge of [{ commit: out }, { commit: "main" }, { oid: out }, { oid: "" + "/x" }]) {
      const server = hubServer({ "config.json": "{}" });
      server.forge = forge;
      const options = { cacheDir, fetch: server.fetch };
      await assertRejects(() => downloadFromHub("org/model", options), FileError, "unsafe");
    }
    for (
      const path of [
        "/etc/x.json",
        "a\\..\\x.json",
        "C:x.json",
        "a/./x.json",
        "a//x.json",
        "x\0.json",
      ]
    ) {
      const server = hubServer({ [path]: "{}" });
      const options = { cacheDir, fetch: server.fetch, files: [path] };
      await assertRejects(() => downloadFromHub("org/model", options), FileError, "unsafe");
    }
    const server = hubServer({ "config.json": "{}" });
    for (const revision of ["../../../secret", "/secret", "a\\b", ""]) {
      const options = { cacheDir, fetch: server.fetch, revision };
      assertEquals(await codeOf(downloadFromHub("org/model", options)), "HUB_NAME");
      assertEquals(
        await codeOf(downloadFromHub("org/model", { ...options, offline: true })),
        "HUB_NAME",
      );
    }
    for (const id of ["../secret", "a/b/c", "/secret", ""]) {
      assertEquals(
        await codeOf(downloadFromHub(id, { cacheDir, fetch: server.fetch })),
        "HUB_NAME",
      );
    }
    assertEquals([server.asked, namesIn(folder)], [[], ["secret"]]);
    // A file that never ends is not waited for.
    server.answer = () =>
      new Response(
        new ReadableStream({ pull: (stream) => stream.enqueue(new Uint8Array(1000)) }),
      );
    assertEquals(
      await codeOf(downloadFromHub("org/model", { cacheDir, fetch: server.fetch })),
      "HUB_DAMAGED",
    );
  }));
