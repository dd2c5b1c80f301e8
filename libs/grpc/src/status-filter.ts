import { Catch, Logger, type ArgumentsHost, type RpcExceptionFilter } from '@nestjs/common';
import { from, mergeMap, throwError, type Observable } from 'rxjs';
import { CleaveError } from '#contracts';

/** Turns every error into a status. Unexpected errors are logged, and their details are not sent to callers. */
@Catch()
export class StatusFilter implements RpcExceptionFilter {
  private readonly logger = new Logger('Grpc');

  catch(error: unknown, host: ArgumentsHost): Observable<never> {
    const refusal = error instanceof CleaveError ? error : this.internal(error, host);
    // The server has loaded it; a static import would load it in processes that do not serve gRPC.
    return from(import('./status.js')).pipe(mergeMap(({ statusOf }) => throwError(() => statusOf(refusal))));
  }

  private internal(error: unknown, host: ArgumentsHost): CleaveError {
    const { path } = host.getArgByIndex<{ getPath(): string } & { path?: string }>(2);
    this.logger.error(`${path} failed`, error instanceof Error ? error.stack : String(error));
    return new CleaveError(
      'internal',
      'The call failed on our side. It may be sent again, with the same idempotency-key if it has one.',
    );
  }
}
