/**
 * Ranges of bytes from a file, a URL or memory.
 *
 * @module
 */
import { FileError } from "../errors.ts";
import { pathOf } from "./atomic.ts";

/** Where bytes are read from by range. */
export interface ByteSource {
  /** What messages call it: its path or URL. */
  readonly name: string;
  /** Length in bytes. */
  readonly size: number;
  /**
   * Reads `length` bytes at `offset`.
   *
   * @throws {FileError} `FILE_TRUNCATED` where the range ends beyond the source, `FILE_CHANGED`
   * where the file is no longer the one that was opened, `FILE_UNREADABLE` or `FETCH_FAILED` where
   * reading fails.
   */
  read(offset: number, length: number): Promise<Uint8Array>;
}

/** How to reach a source. */
export interface ByteSourceOptions {
  /** Used for `http(s):` URLs instead of the global `fetch`. */
  readonly fetch?: typeof fetch;
  /** Headers of each request, for example `Authorization`. */
  readonly headers?: Readonly<Record<string, string>>;
}

/**
 * Opens a source of bytes. Nothing stays open between reads, so there is nothing to close.
 *
 * @param source A path, a `file:` or `http(s):` URL, or the bytes themselves.
 * @throws {FileError} `FILE_NOT_FOUND`, `FILE_UNREADABLE`, `FETCH_FAILED`.
 */
export function openByteSource(
  source: string | URL | Uint8Array,
  options: ByteSourceOptions = {},
): Promise<ByteSource> {
  if (source instanceof Uint8Array) return Promise.resolve(memorySource(source, "the given bytes"));
  const text = String(source);
  return /^https?:/.test(text) ? openUrl(text, options) : openFile(pathOf(source));
}

function memorySource(bytes: Uint8Array, name: string): ByteSource {
  return {
    name,
    size: bytes.length,
    read: (offset, length) => {
      if (offset + length > bytes.length) {
        return Promise.reject(truncated(name, offset, length, bytes.length));
      }
      return Promise.resolve(bytes.subarray(offset, offset + length));
    },
  };
}

async function openFile(path: string): Promise<ByteSource> {
  const opened = await readable(path, () => Deno.stat(path));
  if (!opened.isFile) {
    throw new FileError("FILE_UNREADABLE", `${path} is not a file.`, { path });
  }
  const read = async (offset: number, length: number) => {
    using file = await readable(path, () => Deno.open(path));
    const now = await file.stat();
    if (now.size !== opened.size || now.mtime?.getTime() !== opened.mtime?.getTime()) {
      throw new FileError(
        "FILE_CHANGED",
        `${path} was replaced or written to after it was opened. Open it again.`,
        { path },
      );
    }
    if (offset + length > opened.size) throw truncated(path, offset, length, opened.size);
    const bytes = new Uint8Array(length);
    await readable(path, async () => {
      await file.seek(offset, Deno.SeekMode.Start);
      for (let at = 0; at < length;) {
        const count = await file.read(bytes.subarray(at));
        if (count === null) throw truncated(path, offset, length, offset + at);
        at += count;
      }
    });
    return bytes;
  };
  // One read at a time: thousands of tensors asked for at once must not open thousands of files.
  let last: Promise<unknown> = Promise.resolve();
  return {
    name: path,
    size: opened.size,
    read: (offset, length) => {
      const next = last.then(() => read(offset, length));
      last = next.catch(() => {});
      return next;
    },
  };
}

async function openUrl(url: string, options: ByteSourceOptions): Promise<ByteSource> {
  const request = async (range: string) => {
    try {
      const response = await (options.fetch ?? fetch)(url, {
        headers: { ...options.headers, Range: range },
      });
      if (response.ok) return response;
      await response.body?.cancel();
      throw new FileError("FETCH_FAILED", `${url} answered with status ${response.status}.`, {
        url,
        status: response.status,
      });
    } catch (cause) {
      throw wrap(cause, "FETCH_FAILED", `${url} could not be fetched`, { url });
    }
  };
  const body = async (response: Response) => {
    try {
      return new Uint8Array(await response.arrayBuffer());
    } catch (cause) {
      throw wrap(cause, "FETCH_FAILED", `The answer of ${url} broke off`, { url });
    }
  };
  const first = await request("bytes=0-0");
  // A server without ranges sends everything.
  if (first.status !== 206) return memorySource(await body(first), url);
  await first.body?.cancel();
  const size = Number(first.headers.get("content-range")?.match(/\/(\d+)$/)?.[1] ?? NaN);
  if (!Number.isSafeInteger(size)) {
    throw new FileError("FETCH_FAILED", `${url} does not say how long it is.`, { url });
  }
  return {
    name: url,
    size,
    read: async (offset, length) => {
      if (offset + length > size) throw truncated(url, offset, length, size);
      if (length === 0) return new Uint8Array();
      const bytes = await body(await request(`bytes=${offset}-${offset + length - 1}`));
      if (bytes.length !== length) throw truncated(url, offset, length, offset + bytes.length);
      return bytes;
    },
  };
}

function truncated(name: string, offset: number, length: number, size: number): FileError {
  return new FileError(
    "FILE_TRUNCATED",
    `${name} ends at byte ${size}, but bytes ${offset} to ${offset + length} were wanted. ` +
      `The file is incomplete; get it again.`,
    { name, offset, length, size },
  );
}

async function readable<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    if (cause instanceof Deno.errors.NotFound) {
      throw wrap(cause, "FILE_NOT_FOUND", `${path} does not exist`, { path });
    }
    throw wrap(cause, "FILE_UNREADABLE", `${path} could not be read`, { path });
  }
}

/**
 * A {@link FileError} with the reason appended; errors that are file errors already pass as they
 * are.
 */
export function wrap(
  cause: unknown,
  code: string,
  message: string,
  details: Readonly<Record<string, unknown>> = {},
): FileError {
  if (cause instanceof FileError) return cause;
  return new FileError(
    code,
    `${message}: ${cause instanceof Error ? cause.message : cause}`,
    details,
    { cause },
  );
}
