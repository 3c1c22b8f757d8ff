/* What firmware of other people does: stdio, floating point, malloc, arguments. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    volatile float x = 2.0f;
    volatile double y = 10.0;
    double *table = malloc(50 * sizeof *table);
    for (int i = 0; i < 50; i++) {
        table[i] = sqrt(y * i) + (double)sqrtf(x);
    }
    printf("argc=%d last=%s table=%.6f\n", argc, argv[argc - 1], table[49]);
    char line[32] = "";
    if (fgets(line, sizeof line, stdin)) {
        printf("read %u: %s", (unsigned)strlen(line), line);
    }
    FILE *file = fopen("result.txt", "w");
    fprintf(file, "%.3e\n", table[7]);
    fclose(file);
    free(table);
    return 3;
}
