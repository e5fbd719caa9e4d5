/* The watchdog: what it does to the word when its tracer, here a child of the test, comes to an end. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probe/watchdog.h"

#define OFFSET 4104u /* of the word, in the file's second page */
#define SIZE   8192u

struct file {
	int fd;
	char *bytes;
};

static struct file create(void)
{
	struct file file = {.fd = memfd_create("watched", MFD_CLOEXEC)};

	cr_assert_geq(file.fd, 0);
	cr_assert_eq(ftruncate(file.fd, SIZE), 0);
	file.bytes = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd, 0);
	cr_assert_neq(file.bytes, MAP_FAILED);
	for (unsigned i = 0; i < SIZE; i++)
		file.bytes[i] = 1;
	return file;
}

static uint32_t word(const struct file *file)
{
	return *(uint32_t *)(file->bytes + OFFSET);
}

/* Runs `trace` with a watchdog as a process of its own, and returns when that and the watchdog have ended:
   each of the two keeps the pipe's end open. */
static void run(void (*trace)(struct tm_watchdog *watchdog))
{
	struct tm_watchdog watchdog = TM_NO_WATCHDOG;
	int ends[2];
	pid_t pid;
	char byte;

	cr_assert_eq(pipe(ends), 0);
	pid = fork();
	if (pid == 0) {
		struct tm_error *err = tm_watchdog_start(&watchdog);

		if (err)
			_exit(1);
		trace(&watchdog);
		_exit(0);
	}
	close(ends[1]);
	cr_assert_eq(waitpid(pid, NULL, 0), pid);
	cr_expect_eq(read(ends[0], &byte, 1), 0);
	close(ends[0]);
}

static struct file file, other;

static void die(struct tm_watchdog *watchdog)
{
	if (!tm_watchdog_watch(watchdog, file.fd, OFFSET))
		kill(getpid(), SIGKILL);
}

static void close_and_die(struct tm_watchdog *watchdog)
{
	if (!tm_watchdog_watch(watchdog, file.fd, OFFSET)) {
		close(file.fd);
		kill(getpid(), SIGKILL);
	}
}

static void dismiss(struct tm_watchdog *watchdog)
{
	if (!tm_watchdog_watch(watchdog, file.fd, OFFSET))
		tm_watchdog_dismiss(watchdog);
}

static void turn_to_the_other(struct tm_watchdog *watchdog)
{
	if (!tm_watchdog_watch(watchdog, file.fd, OFFSET) && !tm_watchdog_watch(watchdog, other.fd, OFFSET))
		kill(getpid(), SIGKILL);
}

static void let_be(struct tm_watchdog *watchdog)
{
	if (!tm_watchdog_watch(watchdog, file.fd, OFFSET) && !tm_watchdog_watch(watchdog, -1, 0))
		kill(getpid(), SIGKILL);
}

static void watch_nothing(struct tm_watchdog *watchdog)
{
	(void)watchdog;
}

Test(watchdog, clears_the_word_and_nothing_else_when_the_tracer_dies)
{
	file = create();
	run(die);
	cr_expect_eq(word(&file), 0);
	for (unsigned i = 0; i < SIZE; i++)
		cr_expect_eq(file.bytes[i], i - OFFSET < sizeof(uint32_t) ? 0 : 1);
}

Test(watchdog, needs_the_file_no_longer_open)
{
	file = create();
	run(close_and_die);
	cr_expect_eq(word(&file), 0);
}

Test(watchdog, touches_nothing_when_it_is_dismissed)
{
	file = create();
	run(dismiss);
	cr_expect_eq(word(&file), 0x01010101);
}

Test(watchdog, watches_the_latest_file)
{
	file = create();
	other = create();
	run(turn_to_the_other);
	cr_expect_eq(word(&file), 0x01010101);
	cr_expect_eq(word(&other), 0);
}

Test(watchdog, can_be_told_to_let_be)
{
	file = create();
	run(let_be);
	cr_expect_eq(word(&file), 0x01010101);
}

Test(watchdog, ends_with_a_tracer_that_had_nothing_to_watch)
{
	run(watch_nothing);
}
