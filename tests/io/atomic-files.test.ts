import { assertEquals, assertRejects } from "@std/assert";
import { join } from "node:path";
import { FileError } from "../../lib/errors.ts";
import { type GroupedFile, writeFilesAtomic } from "../../lib/io/atomic-files.ts";
import { inFolder, namesIn } from "./folder.ts";

const text = (path: string, contents: string): GroupedFile => ({
  path,
  write: (staged) => Deno.writeTextFile(staged, contents),
});

Deno.test("all files of a group are written, folders included", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(join(folder, "b"), "old");
    await writeFilesAtomic([text(join(folder, "x", "y", "a"), "1"), text(join(folder, "b"), "2")]);
    assertEquals(namesIn(folder), ["b", "x"]);
    assertEquals(await Deno.readTextFile(join(folder, "b")), "2");
    assertEquals(await Deno.readTextFile(join(folder, "x", "y", "a")), "1");
    assertEquals(namesIn(join(folder, "x", "y")), ["a"]);
  });
});

Deno.test("when one fails, none is written and nothing is left behind", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(join(folder, "a"), "old");
    await Deno.mkdir(join(folder, "taken"));
    const failing: GroupedFile[][] = [
      [text(join(folder, "a"), "new"), {
        path: join(folder, "x", "b"),
        write: () => Promise.reject(new RangeError("no")),
      }],
      // This one fails only when the others have taken their places.
      [
        text(join(folder, "a"), "new"),
        text(join(folder, "c"), "c"),
        text(join(folder, "taken"), ""),
      ],
    ];
    await assertRejects(() => writeFilesAtomic(failing[0]), RangeError);
    await assertRejects(() => writeFilesAtomic(failing[1]), FileError);
    assertEquals(namesIn(folder), ["a", "taken"]);
    assertEquals(await Deno.readTextFile(join(folder, "a")), "old");
    await assertRejects(() => writeFilesAtomic([text(join(folder, "a", "b"), "")]), FileError);
  });
});
