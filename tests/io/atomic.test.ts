import { assertEquals, assertRejects } from "@std/assert";
import { join } from "node:path";
import { FileError } from "../../lib/errors.ts";
import { writeFileAtomic } from "../../lib/io/atomic.ts";
import { inFolder, namesIn } from "./folder.ts";

Deno.test("writes text, bytes and pieces, and leaves nothing else behind", () =>
  inFolder(async (folder) => {
    const path = join(folder, "a.txt");
    await writeFileAtomic(path, "grün");
    assertEquals(await Deno.readTextFile(path), "grün");
    await writeFileAtomic(new URL(`file://${path}`), Uint8Array.of(1, 2, 3));
    assertEquals(await Deno.readFile(path), Uint8Array.of(1, 2, 3));
    await writeFileAtomic(path, [Uint8Array.of(4), new Uint8Array(), Uint8Array.of(5, 6)]);
    assertEquals(await Deno.readFile(path), Uint8Array.of(4, 5, 6));
    assertEquals(namesIn(folder), ["a.txt"]);
  }));

Deno.test("when making the contents fails, the old file stays and the error is passed on", () =>
  inFolder(async (folder) => {
    const path = join(folder, "a.bin");
    await writeFileAtomic(path, "old");
    async function* pieces() {
      yield await Promise.resolve(new Uint8Array(100_000));
      assertEquals(namesIn(folder).length, 2, "half of it is on disk, under another name");
      throw new RangeError("no more");
    }
    await assertRejects(() => writeFileAtomic(path, pieces()), RangeError, "no more");
    assertEquals(await Deno.readTextFile(path), "old");
    assertEquals(namesIn(folder), ["a.bin"]);
  }));

Deno.test("a folder that does not exist is a file error that names the target", () =>
  inFolder(async (folder) => {
    const path = join(folder, "missing", "a.bin");
    const error = await assertRejects(() => writeFileAtomic(path, "x"), FileError, path);
    assertEquals(error.code, "WRITE_FAILED");
  }));

Deno.test("a target that cannot be replaced stays, and no temporary file is left", () =>
  inFolder(async (folder) => {
    await Deno.mkdir(join(folder, "target", "inner"), { recursive: true });
    await assertRejects(() => writeFileAtomic(join(folder, "target"), "x"), FileError);
    assertEquals(namesIn(folder), ["target"]);
  }));

Deno.test({
  name: "a symbolic link is followed and permissions are kept",
  ignore: Deno.build.os === "windows",
  fn: () =>
    inFolder(async (folder) => {
      const path = join(folder, "real"), link = join(folder, "link");
      await Deno.writeTextFile(path, "old");
      await Deno.chmod(path, 0o640);
      await Deno.symlink(path, link);
      await writeFileAtomic(link, "new");
      assertEquals(await Deno.readTextFile(path), "new");
      assertEquals((await Deno.lstat(link)).isSymlink, true);
      assertEquals((await Deno.stat(path)).mode! & 0o777, 0o640);
    }),
});
