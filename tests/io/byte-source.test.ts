import { assertEquals, assertRejects } from "@std/assert";
import { join } from "node:path";
import { FileError } from "../../lib/errors.ts";
import { openByteSource } from "../../lib/io/byte-source.ts";
import { codeOf, inFolder } from "./folder.ts";

const bytes = Uint8Array.from({ length: 100 }, (_, i) => i);

Deno.test("a file gives ranges, many at once too", () =>
  inFolder(async (folder) => {
    const path = join(folder, "a.bin");
    await Deno.writeFile(path, bytes);
    const source = await openByteSource(path);
    assertEquals(source.size, 100);
    const reads = Array.from({ length: 90 }, (_, i) => source.read(i, 10));
    for (const [i, read] of (await Promise.all(reads)).entries()) {
      assertEquals(read, bytes.slice(i, i + 10));
    }
    assertEquals(await codeOf(source.read(95, 6)), "FILE_TRUNCATED");
    assertEquals(await source.read(95, 5), bytes.slice(95), "an error does not stop later reads");
  }));

Deno.test("a file that was replaced after it was opened is not read", () =>
  inFolder(async (folder) => {
    const path = join(folder, "a.bin");
    await Deno.writeFile(path, bytes);
    const source = await openByteSource(path);
    await Deno.writeFile(path, bytes.slice(1));
    assertEquals(await codeOf(source.read(0, 1)), "FILE_CHANGED");
  }));

Deno.test("missing files and folders are file errors", () =>
  inFolder(async (folder) => {
    assertEquals(await codeOf(openByteSource(join(folder, "none"))), "FILE_NOT_FOUND");
    assertEquals(await codeOf(openByteSource(folder)), "FILE_UNREADABLE");
  }));

function server(ranges: boolean): { fetch: typeof fetch; asked: string[] } {
  const asked: string[] = [];
  const answer: typeof fetch = (_url, init) => {
    const range = new Headers(init?.headers).get("range")!;
    asked.push(range);
    if (!ranges) return Promise.resolve(new Response(bytes));
    const [begin, end] = range.match(/\d+/g)!.map(Number);
    return Promise.resolve(
      new Response(bytes.slice(begin, end + 1), {
        status: 206,
        headers: { "content-range": `bytes ${begin}-${end}/100` },
      }),
    );
  };
  return { fetch: answer, asked };
}

Deno.test("a URL is read by ranges", async () => {
  const { fetch, asked } = server(true);
  const source = await openByteSource("https://example.org/a.bin", { fetch });
  assertEquals(source.size, 100);
  assertEquals(await source.read(7, 3), bytes.slice(7, 10));
  assertEquals(await source.read(100, 0), new Uint8Array());
  assertEquals(asked, ["bytes=0-0", "bytes=7-9"]);
  assertEquals(await codeOf(source.read(99, 2)), "FILE_TRUNCATED");
});

Deno.test("a server without ranges is asked once", async () => {
  const { fetch, asked } = server(false);
  const source = await openByteSource(new URL("https://example.org/a.bin"), { fetch });
  assertEquals(await source.read(7, 3), bytes.slice(7, 10));
  assertEquals(asked.length, 1);
});

Deno.test("an unwilling server and a broken line are file errors", async () => {
  const status = openByteSource("https://example.org/a", {
    fetch: () => Promise.resolve(new Response("", { status: 403 })),
  });
  await assertRejects(() => status, FileError, "403");
  const broken = openByteSource("https://example.org/a", {
    fetch: () => Promise.reject(new TypeError("no route to host")),
  });
  await assertRejects(() => broken, FileError, "no route to host");
});
