#include <criterion/criterion.h>
#include <errno.h>

#include "base/error.h"

Test(error, message_is_formatted)
{
	_cleanup_error_ struct tm_error *err =
		tm_error_create(TM_ERROR_NOT_FOUND, "no symbol %s in %d files", "x", 3);

	cr_assert_eq(err->code, TM_ERROR_NOT_FOUND);
	cr_assert_str_eq(err->message, "no symbol x in 3 files");
}

Test(error, code_follows_from_errno)
{
	static const struct {
		int errno_value;
		enum tm_error_code code;
	} table[] = {
		{ESRCH, TM_ERROR_NO_PROCESS}, {EPERM, TM_ERROR_PERMISSION}, {EACCES, TM_ERROR_PERMISSION},
		{ENOENT, TM_ERROR_NOT_FOUND}, {EEXIST, TM_ERROR_EXISTS},    {EIO, TM_ERROR_NO_MEMORY},
		{EFAULT, TM_ERROR_NO_MEMORY}, {ENOSPC, TM_ERROR_OTHER},	    {0, TM_ERROR_OTHER},
	};

	for (size_t i = 0; i < TM_ARRAY_SIZE(table); i++) {
		_cleanup_error_ struct tm_error *err =
			tm_error_errno(table[i].errno_value, "cannot open %s", "f");

		cr_assert_eq(err->code, table[i].code, "errno %d", table[i].errno_value);
	}
}

Test(error, errno_is_spelled_out)
{
	_cleanup_error_ struct tm_error *err = tm_error_errno(ENOENT, "cannot open %s", "/no/file");

	cr_assert_str_eq(err->message, "cannot open /no/file: No such file or directory");
}

Test(error, prefix_goes_before_the_message)
{
	_cleanup_error_ struct tm_error *err = tm_error_create(TM_ERROR_TIMEOUT, "thread %d did not stop", 7);

	cr_assert_eq(tm_error_prefix(err, "process %d", 5), err);
	cr_assert_str_eq(err->message, "process 5: thread 7 did not stop");
	cr_assert_eq(err->code, TM_ERROR_TIMEOUT);
}

Test(error, out_of_memory_needs_no_memory)
{
	struct tm_error *err = tm_error_out_of_memory();

	cr_assert_eq(tm_error_prefix(err, "prefix"), err);
	cr_assert_str_eq(err->message, "out of memory");
	tm_error_destroy(err);
	tm_error_destroy(NULL);
	cr_assert_str_eq(tm_error_out_of_memory()->message, "out of memory");
}

static struct tm_error *steal_from_cleanup(void)
{
	_cleanup_error_ struct tm_error *err = tm_error_create(TM_ERROR_OTHER, "kept");

	return tm_steal(err);
}

Test(error, stolen_error_survives_its_scope)
{
	_cleanup_error_ struct tm_error *err = steal_from_cleanup();

	cr_assert_str_eq(err->message, "kept");
}
