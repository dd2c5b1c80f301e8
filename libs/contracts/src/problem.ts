import { z } from 'zod';

/** RFC 9457, with a stable `code` and, for a request that is not valid, the path of each fault. */
export const problem = z
  .looseObject({
    type: z.string().meta({ description: '`/problems/<code>`', examples: ['/problems/invalid-request'] }),
    title: z.string(),
    status: z.int(),
    code: z.string().meta({ description: 'Stable: programs can rely on it.' }),
    detail: z.string(),
    faults: z.array(z.object({ path: z.string(), message: z.string() })).optional(),
  })
  .meta({ id: 'Problem' });
