import { execFile } from 'node:child_process';
import { realpath, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { promisify } from 'node:util';

/** The account that a root process runs Postgres under. */
export interface ServerUser {
  uid: number;
  gid: number;
}

const run = promisify(execFile);

const ownerOf = async (folder: string): Promise<ServerUser | undefined> => {
  const found = await stat(folder).catch(() => undefined);
  return found && { uid: found.uid, gid: found.gid };
};

const accountNamed = async (name: string): Promise<ServerUser | undefined> => {
  try {
    const [uid, gid] = await Promise.all(
      ['-u', '-g'].map(async (flag) => Number((await run('id', [flag, name])).stdout)),
    );
    return { uid: uid!, gid: gid! };
  } catch {
    // There is no such account.
    return undefined;
  }
};

/**
 * Postgres refuses to run as root. A root process runs it as the account that the data belongs to already, else as
 * `postgres`, else as `nobody`; any other process runs it as itself (undefined).
 */
export async function serverUserFor(data: string): Promise<ServerUser | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const owner = await ownerOf(data);
  if (owner && owner.uid !== 0) return owner;
  const user = (await accountNamed('postgres')) ?? (await accountNamed('nobody'));
  if (user) return user;
  throw new Error(
    'Postgres does not run as root, and there is neither a user "postgres" nor a user "nobody" to run it as. ' +
      'Start as another user, add one of these, or set DATABASE_URL to a server that runs already.',
  );
}

/** Whether the account may traverse the path to the folder, by the permission bits of its parents. */
export async function canReach(user: ServerUser | undefined, folder: string): Promise<boolean> {
  if (!user) return true;
  let above = dirname(await realpath(folder));
  for (;;) {
    const { uid, gid, mode } = await stat(above);
    const executable = uid === user.uid ? 0o100 : gid === user.gid ? 0o010 : 0o001;
    if ((mode & executable) === 0) return false;
    if (dirname(above) === above) return true;
    above = dirname(above);
  }
}
