import { Logger } from '@nestjs/common';
import type { OpenAPIObject } from '@nestjs/swagger';
import { mergeDocuments, type DocumentPart } from './merge-documents.js';
import type { BalancedUpstream } from './balanced-upstream.js';

export interface DocumentTimes {
  /** How long an upstream may take to answer with its document. */
  timeoutMs: number;
  /** How long an upstream's document, or its failure, is reused before it is asked again. */
  freshMs: number;
}

const standardTimes: DocumentTimes = { timeoutMs: 1_000, freshMs: 5_000 };

/** The documents of the upstreams: fetched on demand, and kept while an upstream cannot be reached. */
export class UpstreamDocuments {
  private readonly logger = new Logger('Documents');
  private readonly sources: DocumentSource[];
  private renamed = '';

  constructor(upstreams: readonly BalancedUpstream[], times: Partial<DocumentTimes> = {}) {
    this.sources = upstreams.map((upstream) => new DocumentSource(upstream, { ...standardTimes, ...times }));
  }

  /**
   * The gateway's own document, merged with those of the upstreams. `info.description` names the upstreams that never
   * answered, and what was renamed.
   *
   * @throws Error if a document refers to a schema that it does not have
   */
  async mergedInto(own: OpenAPIObject): Promise<OpenAPIObject> {
    const documents = await Promise.all(this.sources.map((source) => source.current()));
    const parts = this.sources.flatMap(({ upstream: { name, prefixes } }, index): DocumentPart[] => {
      const document = documents[index];
      return document ? [{ name, prefixes, document }] : [];
    });
    const missing = this.sources.filter((_, index) => !documents[index]).map(({ upstream }) => upstream.name);
    const { document, renamed } = mergeDocuments(own, parts);
    this.logRenamed(renamed.join(', '));
    return withNotes(document, missing, renamed);
  }

  /** The document is requested often, so only changes are logged. */
  private logRenamed(renamed: string): void {
    if (renamed !== this.renamed && renamed !== '')
      this.logger.warn(
        `Services of different versions define ${renamed} differently: run the same version of all services.`,
      );
    this.renamed = renamed;
  }
}

const withNotes = (document: OpenAPIObject, missing: string[], renamed: string[]): OpenAPIObject => {
  const notes = [
    missing.length > 0 &&
      `The operations of these services are missing here, because the services cannot be reached: ${missing.join(', ')}.`,
    renamed.length > 0 &&
      `Services of different versions are running, so these names are prefixed with the name of their service: ${renamed.join(', ')}.`,
  ].filter((note) => note !== false);
  if (notes.length === 0) return document;
  const { info } = document;
  return { ...document, info: { ...info, description: [info.description, ...notes].filter(Boolean).join('\n\n') } };
};

class DocumentSource {
  private readonly logger = new Logger('Documents');
  private latest: OpenAPIObject | undefined;
  private asked: Promise<void> | undefined;
  private freshUntil = 0;

  constructor(
    readonly upstream: BalancedUpstream,
    private readonly times: DocumentTimes,
  ) {}

  /** The upstream's document, or the last known one while it cannot be reached; undefined if it never was. */
  async current(): Promise<OpenAPIObject | undefined> {
    if (performance.now() >= this.freshUntil) this.asked ??= this.ask().finally(() => (this.asked = undefined));
    await this.asked;
    return this.latest;
  }

  private async ask(): Promise<void> {
    try {
      await this.fetch();
    } catch (error) {
      const { message, cause } = error as Error;
      this.logger.warn(
        `cannot get the OpenAPI document of ${this.upstream.name}: ${message}${cause ? ` (${String(cause)})` : ''}`,
      );
    }
    this.freshUntil = performance.now() + this.times.freshMs;
  }

  private async fetch(): Promise<void> {
    const { statusCode, body } = await this.upstream.get('/openapi.json', this.times.timeoutMs);
    if (statusCode !== 200) {
      await body.dump();
      throw new Error(`it answered ${statusCode}`);
    }
    const document = (await body.json()) as OpenAPIObject;
    if (typeof document?.paths !== 'object' || document.paths === null)
      throw new Error('the response is not an OpenAPI document');
    this.latest = document;
  }
}
