// The type of our dashboards, from Grafana's own: a test appends each of them as a constant.
import type { AnnotationQuery, Dashboard } from "@grafana/schema";

// In JSON the member of an enumeration is its text.
type Plain<T> = T extends string
  ? `${T}`
  : T extends (infer Item)[]
    ? Plain<Item>[]
    : T extends object
      ? { [Key in keyof T]: Plain<T[Key]> }
      : T;

// What the data source adds to an annotation's query.
type Annotation = AnnotationQuery & { expr: string; step: string; titleFormat: string };

type Ours = Plain<Omit<Dashboard, "annotations">> & { annotations: { list: Plain<Annotation>[] } };
