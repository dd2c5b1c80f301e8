/** The generated client names this type of the fetch standard, which the types of Node do not declare globally. */
type BodyInit = NonNullable<RequestInit['body']>;
