export { eventually } from '#testing';
