/**
 * The walls between modules and between the rooms of a module. `npm run check:walls` checks every import against them, and
 * test/walls proves that violations are found. A refused import prints the name of the rule and its comment.
 */

/** Libs for one technical concern each, which any module may use. */
const techniques =
  'admission|balancing|cache-engine|config|contracts|database|events|gateway|grpc|health|messaging|nats|periodic|rest|sdk|security|service|telemetry|testing';
/** All other libs are features. They communicate through contracts and never import each other. */
const features = `^libs/((?!(?:${techniques})/)[^/]+)/`;

/** What a domain may import besides its own files: nothing with I/O, so that the same input gives the same decision. */
const pure = ['^libs/contracts/src/index\\.ts$', '(^|/)node_modules/zod/', '^(node:)?(assert|buffer|crypto|util)$'];

/** Packages with I/O. Use cases declare ports; only adapters and transports use these packages. */
const outside =
  '(^|/)node_modules/(@types/)?(@nestjs/(microservices|platform-|swagger|terminus|typeorm)|@fastify|fastify|@grpc|@nats-io|pg|redis|stripe|typeorm)';

/** @type {import('dependency-cruiser').IConfiguration} */
export default {
  forbidden: [
    {
      name: 'feature-to-feature',
      comment: 'A feature asks another one through its contract (clientFor) and never imports it.',
      severity: 'error',
      from: { path: features },
      to: { path: features, pathNot: '^libs/$1/' },
    },
    {
      name: 'technique-knows-no-feature',
      comment: 'Libs that serve all features know none of them: declare a hook and let the feature fill it.',
      severity: 'error',
      from: { path: '^libs/', pathNot: features },
      to: { path: features },
    },
    {
      name: 'by-the-door',
      comment: "A module is entered by its door, import '#<module>', and never by a path.",
      severity: 'error',
      from: { path: '^libs/([^/]+)/' },
      to: {
        path: '^(libs|apps|test|scripts)/',
        pathNot: '^libs/$1/',
        dependencyTypesNot: ['aliased-subpath-import'],
      },
    },
    {
      name: 'by-the-door-from-outside',
      comment: "A module is entered by its door, import '#<module>', and never by a path.",
      severity: 'error',
      from: { pathNot: '^libs/' },
      to: { path: '^libs/', dependencyTypesNot: ['aliased-subpath-import'] },
    },
    {
      name: 'apps-are-not-imported',
      comment: 'An app composes and offers nothing: move what others need into a lib, or run the app as a process.',
      severity: 'error',
      from: { path: '^(apps/[^/]+/|[^/]+/)' },
      to: { path: '^apps/', pathNot: '^$1' },
    },
    {
      name: 'contracts-stay-data',
      comment: 'The language between modules is data: zod and nothing else.',
      severity: 'error',
      from: { path: '^libs/contracts/src/' },
      to: { pathNot: ['^libs/contracts/src/', ...pure] },
    },
    {
      name: 'domain-is-pure',
      comment: 'Decisions are plain TypeScript: no Nest, no I/O, no other room. Hand in what they need as a value.',
      severity: 'error',
      from: { path: '^libs/([^/]+)/src/domain/' },
      to: { pathNot: ['^libs/$1/src/domain/', ...pure] },
    },
    {
      name: 'use-cases-name-ports',
      comment: 'A use case declares the port it needs (abstract class) beside it; an adapter or a transport knows it.',
      severity: 'error',
      from: { path: '^libs/([^/]+)/src/use-cases/' },
      to: { path: ['^libs/$1/(src/(adapters|transport)|migrations)/', outside] },
    },
    {
      name: 'transport-calls-use-cases',
      comment: 'A controller calls a use case and does not know what is behind it.',
      severity: 'error',
      from: { path: '^libs/([^/]+)/src/transport/' },
      to: { path: '^libs/$1/(src/adapters|migrations)/' },
    },
    {
      name: 'adapters-know-no-transport',
      comment: 'What keeps and fetches does not know who asked.',
      severity: 'error',
      from: { path: '^libs/([^/]+)/(src/adapters|migrations)/' },
      to: { path: '^libs/$1/src/transport/' },
    },
    {
      name: 'tests-stay-outside',
      comment: 'What runs in production imports neither tests nor what only tests need.',
      severity: 'error',
      from: { path: '^(libs|apps)/[^/]+/(src|migrations)/', pathNot: '^libs/testing/' },
      to: { path: ['^libs/[^/]+/test/', '^test/', '^libs/testing/'] },
    },
    {
      name: 'no-development-package-in-production',
      comment: 'Move the package to dependencies, or what needs it into a test.',
      severity: 'error',
      from: { path: '^(libs|apps)/[^/]+/(src|migrations)/', pathNot: '^libs/testing/' },
      to: { dependencyTypes: ['npm-dev'], dependencyTypesNot: ['type-only'] },
    },
    {
      name: 'source-not-output',
      comment: "Import the source ('#<module>' or a relative path): what was compiled last has no walls.",
      severity: 'error',
      from: { pathNot: '^scripts/' },
      to: { path: '^dist/' },
    },
    {
      name: 'no-cycle',
      comment: 'Two files that need each other are one thing, or there is a third one in them.',
      severity: 'error',
      from: { pathNot: '/generated/' },
      to: { circular: true },
    },
    {
      name: 'resolvable',
      comment: 'The import leads nowhere, so no wall could be held against it. Correct the path or add the package.',
      severity: 'error',
      from: {},
      to: { couldNotResolve: true },
    },
  ],
  options: {
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    exclude: '^libs/sdk/dist/',
    doNotFollow: { path: ['node_modules', '^dist/'] },
    enhancedResolveOptions: {
      // `types` leads from '#module' to its source instead of its compiled output.
      conditionNames: ['types', 'import', 'node', 'default'],
      exportsFields: ['exports'],
      extensions: ['.ts', '.js', '.mjs', '.json', '.d.ts'],
    },
    skipAnalysisNotInRules: true,
  },
};
